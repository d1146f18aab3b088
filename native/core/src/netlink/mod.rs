//! Links, addresses, neighbours, forwarding entries and routes over rtnetlink.
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;

/// Names of all links of this network namespace.
pub async fn link_names() -> Result<Vec<String>, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
        rtnetlink::Error::NamespaceError(error.to_string())
    })?;
    let task = tokio::spawn(connection);
    let mut links = handle.link().get().execute();
    let mut names = Vec::new();
    while let Some(link) = links.try_next().await? {
        names.extend(link.attributes.into_iter().filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        }));
    }
    task.abort();
    Ok(names)
}
