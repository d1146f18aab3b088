/** A file embedded in the executable: its path inside it. */
declare module "*.node" {
  const path: string;
  export default path;
}
