/** What somebody may do: an administrator everything, a member read all, and write what members must. */
export type Role = "admin" | "member";

/** The Organization by which a client certificate of `store init` says its role. */
export const roleOrganizations: Readonly<Record<Role, string>> = {
  admin: "flannel-lite:admin",
  member: "flannel-lite:member",
};

/** The role of a verified client certificate: a member's unless it says more. */
export function roleOf(organization: string | undefined): Role {
  return organization === roleOrganizations.admin ? "admin" : "member";
}
