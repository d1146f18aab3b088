//! Descriptors from process to process.
use std::os::fd::RawFd;
use std::sync::Arc;

use flannel_lite_core::error::Error as CoreError;
use flannel_lite_core::handover as core;
use napi::bindgen_prelude::*;
use napi_derive::napi;
use tokio::task::spawn_blocking;

use crate::value::{layout, reason};

/// An open descriptor of this process.
#[napi(object)]
pub struct NamedDescriptor {
    /// What it is.
    pub name: String,
    /// Its number.
    pub number: i32,
}

pub fn named(all: Vec<(String, RawFd)>) -> Vec<NamedDescriptor> {
    let all = all.into_iter();
    all.map(|(name, number)| NamedDescriptor { name, number })
        .collect()
}

/// Descriptors that another process handed down.
#[napi]
pub struct Descriptors {
    pub(crate) inner: core::Descriptors,
}

/// One that is not used.
#[napi(object)]
pub struct RefusedDescriptor {
    /// What it was called.
    pub name: String,
    /// Why.
    pub reason: String,
}

#[napi]
impl Descriptors {
    /// What there is.
    #[napi]
    pub fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    /// Closes what belongs to none of `devices`, and tells it.
    #[napi]
    pub fn keep_only(&self, devices: Vec<String>) -> Vec<RefusedDescriptor> {
        told(self.inner.keep_only(&devices))
    }

    /// Closes what an engine on `device` could not go on with, and tells it.
    #[napi]
    pub fn verify(
        &self,
        device: String,
        local: String,
        port: u32,
        encapsulation: Option<String>,
    ) -> Result<Vec<RefusedDescriptor>> {
        let local = local.parse().ok();
        let (Some(local), Ok(port)) = (local, u16::try_from(port)) else {
            let error = CoreError::invalid("verify descriptors", "no such address or port");
            return Err(reason(error));
        };
        let layout = layout(encapsulation.as_deref())?;
        Ok(told(self.inner.verify(&device, local, port, layout)))
    }

    /// Closes what is left. May be called twice.
    #[napi]
    pub fn close(&self) {
        self.inner.close();
    }
}

fn told(refused: Vec<core::Refused>) -> Vec<RefusedDescriptor> {
    let refused = refused.into_iter();
    let told = refused.map(|core::Refused { name, reason }| RefusedDescriptor {
        name,
        reason: reason.to_owned(),
    });
    told.collect()
}

/// Takes the descriptors that the service manager passed to this process.
#[napi]
pub fn inherit_descriptors(names: Vec<String>) -> Descriptors {
    Descriptors {
        inner: core::Descriptors::inherited(&names),
    }
}

/// Where a running daemon waits for its successor.
#[napi]
pub struct Door {
    inner: Arc<core::Door>,
}

/// Who asks.
#[napi(object)]
pub struct Visitor {
    /// Its process id.
    pub pid: i32,
}

#[napi]
impl Door {
    /// Listens at `path`.
    #[napi(constructor)]
    pub fn new(path: String) -> Result<Self> {
        let inner = core::Door::open(&path).map_err(reason)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The next process of our own user that asks; null after `close`.
    #[napi]
    pub async fn next(&self) -> Result<Option<Visitor>> {
        let door = Arc::clone(&self.inner);
        let visitor = spawn_blocking(move || door.next()).await;
        let visitor = visitor.map_err(reason)?;
        let visitor = visitor.map_err(reason)?;
        Ok(visitor.map(|peer| Visitor { pid: peer.pid }))
    }

    /// Tells it why not.
    #[napi]
    pub fn refuse(&self, reason: String) {
        self.inner.refuse(&reason);
    }

    /// Hands it copies of the descriptors; false when it did not confirm.
    #[napi]
    pub async fn grant(&self, descriptors: Vec<NamedDescriptor>) -> Result<bool> {
        let door = Arc::clone(&self.inner);
        let all: Vec<_> = descriptors
            .into_iter()
            .map(|one| (one.name, one.number))
            .collect();
        let granted = spawn_blocking(move || door.grant(&all)).await;
        granted.map_err(reason)?.map_err(reason)
    }

    /// Ends `next`, and lets a successor go on. May be called twice.
    #[napi]
    pub fn close(&self) {
        self.inner.close();
    }
}

/// Asks the daemon behind `path` for what it holds; the reason where it refuses.
#[napi]
pub async fn take_over(path: String) -> Result<Either<Descriptors, String>> {
    let answer = spawn_blocking(move || core::take_over(&path)).await;
    let answer = answer.map_err(reason)?;
    Ok(match answer.map_err(reason)? {
        core::Answer::Granted(inner) => Either::A(Descriptors { inner }),
        core::Answer::Refused(why) => Either::B(why),
    })
}
