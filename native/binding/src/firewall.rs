//! What tells that others changed the packet filter.
use flannel_lite_core::error::Error as CoreError;
use flannel_lite_core::netlink::{self as core, NftablesMonitor};
use flannel_lite_core::sys::xtables::{self, Family};
use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::value::reason;

/// Listens to nf_tables in the network namespace of the process, for changes to chains of these names.
#[napi]
pub async fn open_firewall_monitor(chains: Vec<String>) -> Result<FirewallMonitor> {
    Ok(FirewallMonitor {
        monitor: NftablesMonitor::open(chains).map_err(reason)?,
    })
}

/// Notifications of nf_tables.
#[napi]
pub struct FirewallMonitor {
    monitor: NftablesMonitor,
}

#[napi]
impl FirewallMonitor {
    /// The next batch of changes, null after `close`.
    #[napi]
    pub async fn next(&self) -> Result<Option<FirewallChange>> {
        let change = self.monitor.next().await.map_err(reason)?;
        Ok(change.map(FirewallChange::from))
    }

    /// Ends `next` and gives the socket back; may be called twice.
    #[napi]
    pub fn close(&self) {
        self.monitor.close();
    }
}

/// What happened to the chains.
#[napi(object)]
pub struct FirewallChange {
    pub chains: Vec<String>,
    pub pid: u32,
    pub process: String,
    pub overrun: bool,
}

impl From<core::NftablesChange> for FirewallChange {
    fn from(change: core::NftablesChange) -> Self {
        Self {
            chains: change.chains.into_iter().collect(),
            pid: change.pid,
            process: change.process,
            overrun: change.overrun,
        }
    }
}

/// The shape of a table of legacy iptables as text: another text, another table.
#[napi]
pub fn legacy_table_state(family: u32, table: String) -> Result<String> {
    let operation = format!("read legacy table {table}");
    let family = match family {
        4 => Family::Ipv4,
        6 => Family::Ipv6,
        _ => return Err(reason(CoreError::invalid(operation, "no such family"))),
    };
    xtables::table_shape(family, &table)
        .map(|shape| format!("{shape:?}"))
        .map_err(|error| reason(CoreError::from_io(&error, operation)))
}
