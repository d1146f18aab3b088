//! One daemon per device.
use flannel_lite_core::{claim as core, handover};
use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::handover::{Descriptors, NamedDescriptor};
use crate::value::reason;

/// A name claimed in this network namespace, or who has it.
#[napi]
pub struct Claim {
    name: String,
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
    /// Claims `name`, or goes on with its claim where that was handed over.
    #[napi(constructor)]
    pub fn new(name: String, handed: Option<ClassInstance<Descriptors>>) -> Result<Self> {
        let claim = handed.and_then(|handed| handed.inner.take(&handover::name::claim(&name)));
        if let Some(claim) = claim {
            let claim = core::adopt(&name, claim);
            let claim = claim.map_err(reason)?;
            return Ok(Self {
                name,
                claimed: Some(core::Claimed::Ours(claim)),
            });
        }
        let claimed = core::claim(&name).map_err(reason)?;
        Ok(Self {
            name,
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

    /// What to hand over; null when another has the name.
    #[napi]
    pub fn descriptor(&self) -> Option<NamedDescriptor> {
        match &self.claimed {
            Some(core::Claimed::Ours(claim)) => Some(NamedDescriptor {
                name: handover::name::claim(&self.name),
                number: claim.descriptor(),
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
