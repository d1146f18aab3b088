import type { PlanItem, Step, TunnelItem } from "./plan.ts";

/** One step as `plan` prints it: `+` add, `~` change, `-` remove. */
export function stepText({ op, item }: Step): string {
  return `${{ add: "+", change: "~", remove: "-" }[op]} ${itemText(item)}`;
}

/** One line, in iproute2's words where it has some. */
export function itemText(item: PlanItem): string {
  switch (item.type) {
    case "link": {
      const link = item.value;
      if (link.kind === "tun") return `link ${link.name} tun mtu ${link.mtuBytes}`;
      if (link.kind === "ipip")
        return `link ${link.name} ipip${named("local", link.local)}${named("remote", link.remote)} mtu ${link.mtuBytes}`;
      return (
        `link ${link.name} vxlan id ${link.vni} local ${link.local} dev ${link.uplink} dstport ${link.port} ` +
        `mtu ${link.mtuBytes} mac ${link.mac} ${link.learning ? "learning" : "nolearning"}${link.gbp ? " gbp" : ""}`
      );
    }
    case "tunnel": {
      const { device, engine, local, mtuBytes, overlay, strict, allowSources, latency } = item.value;
      const [kind, port, ends] = carriageTexts(item.value);
      const tuned = latency === "auto" ? "" : ` latency ${latency}`;
      const allowed = allowSources.length === 0 ? "" : ` allow ${allowSources.join(",")}`;
      return (
        `tunnel ${device} ${kind} local ${local}${port} mtu ${mtuBytes}${ends} ` +
        `overlay ${overlay.join(",")} strict ${strict}${allowed}${tuned}${engine === "dgram" ? " engine dgram" : ""}`
      );
    }
    case "address":
      return `address ${item.value.address}/${item.value.length} dev ${item.value.device}`;
    case "neighbour":
      return `neighbour ${item.value.ip} lladdr ${item.value.mac} dev ${item.value.device}`;
    case "fdb":
      return `fdb ${item.value.mac} dst ${item.value.via} dev ${item.value.device}`;
    case "forward":
      return `forward ${item.value.to} to ${item.value.via}${named("mac", item.value.mac)} dev ${item.value.device}`;
    case "route":
      return `route ${item.value.to}${named("via", item.value.via)} dev ${item.value.device}${item.value.onLink ? " onlink" : ""}`;
    case "blackhole":
      return `blackhole ${item.value.to}`;
    case "extension": {
      const { key, publicIp, publicIpv6, data } = item.value;
      const at = [publicIp, publicIpv6].filter((one) => one !== undefined).join(" and ");
      return `extension ${key} at ${at}${data === "" ? "" : ` data ${JSON.stringify(data)}`}`;
    }
  }
}

/** Kind of a tunnel, its port, and what its ends go by. */
function carriageTexts(tunnel: TunnelItem): readonly [string, string, string] {
  const port = ` dstport ${tunnel.port}`;
  switch (tunnel.encapsulation) {
    case "vxlan":
      return [`vxlan id ${tunnel.vni}`, port, ` mac ${tunnel.vtepMac}`];
    case "udp":
      return ["udp", port, ` answer ${tunnel.answerFrom.join(",")}`];
    case "ipip":
      return ["ipip", "", ""];
  }
}

function named(word: string, value: { toString(): string } | undefined): string {
  return value === undefined ? "" : ` ${word} ${value}`;
}
