//! One daemon per device.
use flannel_lite_core::claim as core;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// A name claimed in this network namespace, or who has it.
#[napi]
pub struct Claim {
    claimed: Option<core::Claimed>,
}

/// The process that holds a name.
#[napi(object)]
pub struct ClaimHolder {
    /// Its process id, 0 from another pid namespace.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

#[napi]
impl Claim {
    /// Claims `name`.
    #[napi(constructor)]
    pub fn new(name: String) -> Result<Self> {
        let claimed = core::claim(&name).map_err(|error| Error::from_reason(error.to_string()))?;
        Ok(Self {
            claimed: Some(claimed),
        })
    }

    /// Who else holds the name; null when we do.
    #[napi]
    pub fn holder(&self) -> Option<ClaimHolder> {
        match &self.claimed {
            Some(core::Claimed::Taken(peer)) => Some(ClaimHolder {
                pid: peer.pid,
                uid: peer.uid,
            }),
            _ => None,
        }
    }

    /// Frees the name; may be called twice.
    #[napi]
    pub fn release(&mut self) {
        self.claimed = None;
    }
}
