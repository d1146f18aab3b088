//! Load and meters for the bench, each on a thread of its own.
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use flannel_lite_core::bench as core;
use flannel_lite_core::error::Error as CoreError;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// What was offered.
#[napi(object)]
pub struct Blasted {
    /// Datagrams that the kernel took.
    pub sent: f64,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// What arrived.
#[napi(object)]
pub struct Counted {
    /// Datagrams.
    pub packets: f64,
    /// From the first batch to the last, in milliseconds.
    pub ms: f64,
}

/// How long round trips took.
#[napi(object)]
pub struct RoundTrips {
    /// How many.
    pub count: f64,
    /// Median in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
}

/// Sends datagrams to `targets` in turn, as fast as they are taken.
#[napi]
pub async fn bench_blast(
    targets: Vec<String>,
    port: u32,
    payload_bytes: u32,
    duration_ms: f64,
) -> Result<Blasted> {
    let port = to_port(port)?;
    let targets: Vec<SocketAddrV4> = targets
        .iter()
        .map(|target| Ok(SocketAddrV4::new(to_address(target)?, port)))
        .collect::<Result<_>>()?;
    let duration = to_duration(duration_ms)?;
    let blasted = blocking("send datagrams", move || {
        core::blast(&targets, payload_bytes as usize, duration)
    });
    let blasted = blasted.await?;
    Ok(Blasted {
        sent: blasted.sent as f64,
        ms: to_ms(blasted.duration),
    })
}

/// A socket that counts what is sent to any address of this host.
#[napi]
pub struct BenchCounter {
    inner: Arc<core::Counter>,
}

#[napi]
impl BenchCounter {
    /// Binds it.
    #[napi(constructor)]
    pub fn new(port: u32) -> Result<Self> {
        let inner = core::Counter::open(to_port(port)?);
        let inner = inner.map_err(|error| reason(&error, "open counter"))?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Counts until nothing has come for `idle_ms`; waits `first_ms` for the first one.
    #[napi]
    pub async fn count(&self, first_ms: f64, idle_ms: f64) -> Result<Counted> {
        let (first, idle) = (to_duration(first_ms)?, to_duration(idle_ms)?);
        let counter = Arc::clone(&self.inner);
        let counted = blocking("count datagrams", move || counter.count(first, idle)).await?;
        Ok(Counted {
            packets: counted.packets as f64,
            ms: to_ms(counted.duration),
        })
    }
}

/// Answers TCP connections byte for byte.
#[napi]
pub struct BenchEcho {
    listener: Arc<TcpListener>,
}

#[napi]
impl BenchEcho {
    /// Listens.
    #[napi(constructor)]
    pub fn new(port: u32) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, to_port(port)?));
        let listener = listener.map_err(|error| reason(&error, "listen"))?;
        Ok(Self {
            listener: Arc::new(listener),
        })
    }

    /// Answers one connection until it ends.
    #[napi]
    pub async fn serve(&self) -> Result<()> {
        let listener = Arc::clone(&self.listener);
        blocking("echo", move || core::echo(&listener)).await
    }
}

/// Measures round trips of one byte over one connection to an echo.
#[napi]
pub async fn bench_round_trips(target: String, port: u32, duration_ms: f64) -> Result<RoundTrips> {
    let target = SocketAddrV4::new(to_address(&target)?, to_port(port)?);
    let duration = to_duration(duration_ms)?;
    let trips = blocking("measure round trips", move || {
        core::round_trips(target, duration)
    });
    let mut trips = trips.await?;
    let us = |duration: Duration| to_ms(duration) * 1000.0;
    Ok(RoundTrips {
        count: trips.len() as f64,
        p50_us: us(core::percentile(&mut trips, 0.5)),
        p99_us: us(core::percentile(&mut trips, 0.99)),
    })
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    run: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(run).await;
    done.map_err(|error| Error::from_reason(error.to_string()))?
        .map_err(|error| reason(&error, operation))
}

fn to_port(port: u32) -> Result<u16> {
    port.try_into().map_err(|_| invalid("port"))
}

fn to_address(text: &str) -> Result<Ipv4Addr> {
    text.parse().map_err(|_| invalid("address"))
}

fn to_duration(ms: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(ms / 1000.0).map_err(|_| invalid("duration"))
}

fn to_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn invalid(what: &str) -> Error {
    Error::from_reason(format!("EINVAL: bench {what}"))
}

fn reason(error: &std::io::Error, operation: &str) -> Error {
    Error::from_reason(CoreError::from_io(error, operation).to_string())
}
