import type { Prefix } from "../../net/prefix.ts";
import type { FamilyRules } from "./rules.ts";

/** One of the kernel's packet filters, as rules are kept in it. */
export interface Engine {
  readonly name: "iptables" | "nftables";
  /**
   * Makes `wanted` true with one comparison and, where it is not, one transaction a table. Repeating it
   * changes nothing.
   * @throws FlannelError `firewall/missing`: a program is not installed; `firewall/program`
   */
  ensure(wanted: readonly FamilyRules[]): Promise<Changes>;
  /** Removes what is ours or an older flannel's of our networks. Where a program is missing nothing is. */
  remove(): Promise<string[]>;
  /** How a change by others is noticed, as of the last `ensure`. */
  readonly watch: Watch;
}

/** What `ensure` found and set right; both empty: nothing. */
export interface Changes {
  /** Wanted, and not there. */
  readonly missing: readonly string[];
  /** There, and not wanted. */
  readonly removed: readonly string[];
}

export interface Watch {
  /** Chains of nf_tables in which ours stand, or from which they are reached. */
  readonly chains: readonly string[];
  /** Tables of legacy iptables that hold ours. */
  readonly legacyTables: readonly { readonly family: 4 | 6; readonly table: string }[];
}

/** By which networks rules are known as ours: today's, and those of the run before. */
export interface Ownership {
  readonly networks: readonly Prefix[];
}
