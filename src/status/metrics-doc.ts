import { metrics, metricsPrefix } from "./metrics.ts";

/** docs/metrics.md: what is there to be read, in the order of the page. */
export function metricsDocument(): string {
  const rows = metrics.map(({ name, type, labels, help }) => {
    const label = labels.length === 0 ? "" : labels.map((one) => `\`${one}\``).join(", ");
    return `| \`${metricsPrefix}${name}\` | ${type} | ${label} | ${help} |`;
  });
  return `${introduction}
| Metric | Type | Labels | Meaning |
|---|---|---|---|
${rows.join("\n")}

${rules}`;
}

const introduction = `# Health and metrics

Made from \`src/status/metrics.ts\` by \`make docs\`; a test holds the two together.

## Health

Off until \`health.port\` (flanneld's \`-healthz-port\`) is set; then \`health.ip\` is every address, as in flanneld.
Both answer from the start of the daemon on, to GET and HEAD.

| Path | Status | Body |
|---|---|---|
| \`/healthz\` | 200 | \`flanneld is running\` |
| \`/readyz\` | 200 | \`flanneld is ready\` |
| \`/readyz\` | 503 | \`flanneld is not ready yet\`, and on a second line why |

Ready is that traffic can flow, asked anew each time: device, routes and subnet.env stand, our subnet is ours,
masquerading is in place where it is asked for, and the engine's threads run. flanneld, once ready, stays so.
A store that is away does not make a node unready: its traffic goes on.

systemd gets READY=1 at the same moment, STATUS= whenever it changes, and where the unit has WatchdogSec= a sign
of life at half of it. None is given once a packet thread has ended or a comparison with the kernel hangs for a
minute, so that systemd starts the daemon again.

## Metrics

Off until \`metrics.port\` is set; then on loopback, unless \`metrics.ip\` says otherwise: whoever reaches the port can
read them. Health and metrics may share one port when they share the address. Prometheus asks for \`/metrics\`:

    scrape_configs:
      - job_name: flannel-lite
        static_configs: [{ targets: ["192.0.2.10:9102"] }]
`;

const rules = `A metric without a value is not there: no lease yet, a reservation's expiry, single
peers and offloads with the kernel engine. With more peers than \`metrics.peers_max\` there are no
series for single peers. Counters begin anew with the daemon, those of the datapath also with the engine.

Worth an alert:

    flannel_lite_ready == 0                                                        # no traffic
    flannel_lite_lease_conflict == 1                                               # two nodes, one subnet
    flannel_lite_lease_expiry_timestamp_seconds - time() < 1800                    # the store has been away for long
    flannel_lite_certificate_expiry_timestamp_seconds - time() < 30 * 86400        # renew it
    flannel_lite_missing_items > 0                                                 # the machine refuses something
    flannel_lite_firewall_contested == 1                                           # somebody fights our rules
    rate(flannel_lite_datapath_drops_total{reason=~"spoofedSource|unknownSender"}[5m]) > 0
`;
