//! TUN devices (Documentation/networking/tuntap.rst, drivers/net/tun.c).
use std::ffi::{c_char, c_int, c_uint};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::poll::Stop;
use super::{check, handed};
use crate::port::{PacketPort, Wake};
use crate::wire::virtio;

/// TUN with one header for offloads. Several queues are allowed, although one is used: a persistent device keeps
/// the mode it was made with, so this is fixed for ever (attaching with another mode is EINVAL).
const MODE: c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

const CHECKSUM: c_uint = 0x01;
const TSO4: c_uint = 0x02;
const TSO6: c_uint = 0x04;
const TSO_ECN: c_uint = 0x08;
const USO: c_uint = 0x20 | 0x40;
/// Tried in this order: UDP segmentation came with Linux 6.2.
const OFFLOADS: [c_uint; 4] = [
    CHECKSUM | TSO4 | TSO6 | TSO_ECN | USO,
    CHECKSUM | TSO4 | TSO6 | TSO_ECN,
    CHECKSUM,
    0,
];

/// What the device accepted: the kernel may hand us such packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunOffloads(c_uint);

impl TunOffloads {
    /// Whether UDP datagrams of equal size may travel as one, both ways.
    pub fn udp_segmentation(self) -> bool {
        self.0 & USO == USO
    }

    /// Name and whether it is on, for each.
    pub fn named(self) -> [(&'static str, bool); 5] {
        let on = |bit: c_uint| self.0 & bit != 0;
        [
            ("tunChecksum", on(CHECKSUM)),
            ("tunTso4", on(TSO4)),
            ("tunTso6", on(TSO6)),
            ("tunTsoEcn", on(TSO_ECN)),
            ("tunUso", on(USO)),
        ]
    }
}

/// An attached TUN queue.
#[derive(Debug)]
pub struct Tun {
    file: File,
    stop: Arc<Stop>,
    offloads: TunOffloads,
}

impl Tun {
    /// Attaches to the device `name`, making it where it is missing. A device made here vanishes with the
    /// descriptor until `persist` is called.
    ///
    /// Errors: ENOENT or EACCES no /dev/net/tun; EPERM no CAP_NET_ADMIN; EINVAL the name is impossible, or its
    /// device is no TUN of our mode; EBUSY the device is up and somebody reads it (of a device that is down that
    /// cannot be told).
    pub fn open(name: &str, stop: Arc<Stop>) -> io::Result<Self> {
        Self::attach(name, stop, &OFFLOADS)
    }

    /// Goes on with a queue that another process attached, and with what waits in it; `check_handed` has found
    /// that it fits.
    pub fn adopt(fd: OwnedFd, stop: Arc<Stop>) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        let file = File::from(fd);
        let offloads = first_accepted(&OFFLOADS, |flags| set_offloads(&file, flags))?;
        Ok(Self {
            file,
            stop,
            offloads,
        })
    }

    /// As `open`, with every offload off: each packet read is complete and within the device's MTU.
    pub fn open_plain(name: &str, stop: Arc<Stop>) -> io::Result<Self> {
        Self::attach(name, stop, &[0])
    }

    fn attach(name: &str, stop: Arc<Stop>, offloads: &[c_uint]) -> io::Result<Self> {
        let mut request = request_for(name)?;
        if carries(&mut request)? {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        request.ifr_ifru.ifru_flags = MODE as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
        let header_len = virtio::HEADER_LEN as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &header_len) })?;
        let offloads = first_accepted(offloads, |flags| set_offloads(&file, flags))?;
        Ok(Self {
            file,
            stop,
            offloads,
        })
    }

    /// Makes the device outlive its descriptors.
    pub fn persist(&self) -> io::Result<()> {
        let on: libc::c_ulong = 1;
        // SAFETY: TUNSETPERSIST takes a number.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETPERSIST as _, on) })?;
        Ok(())
    }

    /// What the device accepted.
    pub fn offloads(&self) -> TunOffloads {
        self.offloads
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PacketPort for Tun {
    fn wait_readable(&self) -> io::Result<Wake> {
        self.stop.wait(self.file.as_fd(), libc::POLLIN, -1)
    }

    fn stopped(&self) -> bool {
        self.stop.requested()
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(parts).map(|_| ())
    }
}

/// Why `fd` cannot stand for what `open` gives for `name`.
pub fn check_handed(fd: BorrowedFd<'_>, name: &str) -> Result<(), &'static str> {
    /// Of the flags that TUNGETIFF tells, those that make a difference to us.
    const KIND: c_int = MODE | libc::IFF_TAP | IFF_DETACH_QUEUE | libc::IFF_NAPI;
    const IFF_DETACH_QUEUE: c_int = 0x0400;
    /// _IO('T', 227), since Linux 5.2.
    const TUNGETDEVNETNS: libc::c_ulong = 0x54e3;
    if handed::kind(fd) != Some(handed::Kind::Tun) {
        return Err("it is no TUN");
    }
    let wanted = request_for(name).map_err(|_| "no device can have this name")?;
    let mut request = wanted;
    // SAFETY: TUNGETIFF writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &mut request) })
        .map_err(|_| "it is attached to no device")?;
    if request.ifr_name != wanted.ifr_name {
        return Err("it is another device's");
    }
    // SAFETY: TUNGETIFF has written the flags.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & KIND != MODE & 0xffff {
        return Err("it is attached in another mode");
    }
    let mut header_len: c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ as _, &mut header_len) })
        .map_err(|_| "it does not tell the size of its headers")?;
    if header_len != virtio::HEADER_LEN as c_int {
        return Err("its headers have another size");
    }
    match handed::is_in_our_namespace(fd, TUNGETDEVNETNS) {
        Ok(true) => Ok(()),
        Ok(false) => Err("its device is in another network namespace"),
        Err(_) => Err("it does not tell its network namespace"),
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes a number.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // `%` would make the kernel number devices by itself.
    let odd = |byte: u8| byte <= b' ' || byte >= 0x7f || b"/:%".contains(&byte);
    let fits = !name.is_empty() && name.len() < request.ifr_name.len();
    if !fits || name == "." || name == ".." || name.bytes().any(odd) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

/// Whether the device exists, is up and has a carrier: a persistent TUN has one only while a queue is attached.
fn carries(request: &mut libc::ifreq) -> io::Result<bool> {
    const ETHTOOL_GLINK: u32 = 0x0a;
    let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    let mut value = [ETHTOOL_GLINK, 0];
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads the ifreq and writes the two words it points to; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut *request) };
    // An error is "no such device" or "says nothing": attaching will tell.
    let [_, link] = value;
    Ok(result == 0 && link != 0 && is_tun(&socket, request))
}

/// Whether the device's driver is that of TUN: another kind of device is refused when attaching, by its own error.
fn is_tun(socket: &UdpSocket, request: &mut libc::ifreq) -> bool {
    const ETHTOOL_GDRVINFO: u32 = 0x03;
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: SIOCETHTOOL reads the ifreq and writes the DriverInfo it points to; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, request) };
    result == 0 && info.driver.starts_with(b"tun\0")
}

/// struct ethtool_drvinfo (include/uapi/linux/ethtool.h), of which the driver matters.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

fn set_offloads(file: &File, flags: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number.
    check(unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            libc::c_ulong::from(flags),
        )
    })?;
    Ok(())
}

/// The first of `choices` that `set` accepts; its last error where it accepts none.
fn first_accepted(
    choices: &[c_uint],
    mut set: impl FnMut(c_uint) -> io::Result<()>,
) -> io::Result<TunOffloads> {
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for &flags in choices {
        match set(flags) {
            Ok(()) => return Ok(TunOffloads(flags)),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_names_are_refused_before_anything_is_opened() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "tun%d",
            "with space",
            "sixteen_bytes_ab",
            "a\0b",
        ] {
            let stop = Arc::new(Stop::new().unwrap());
            let error = Tun::open(name, stop).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{name:?}");
        }
    }

    #[test]
    fn a_handed_descriptor_that_is_no_queue_of_the_device_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(check_handed(null.as_fd(), "fl-x"), Err("it is no TUN"));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(check_handed(socket.as_fd(), "fl-x"), Err("it is no TUN"));
        // Opened, but attached to nothing; not every machine that builds has it.
        if let Ok(unattached) = File::open("/dev/net/tun") {
            let refusal = check_handed(unattached.as_fd(), "fl-x");
            assert_eq!(refusal, Err("it is attached to no device"));
        }
    }

    /// What is on, by name, with a kernel that refuses every request with a flag of `unknown`.
    fn accepted(unknown: c_uint) -> Vec<&'static str> {
        let set = |flags: c_uint| match flags & unknown {
            0 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let offloads = first_accepted(&OFFLOADS, set).unwrap();
        let on = offloads.named().into_iter().filter(|(_, on)| *on);
        on.map(|(name, _)| name).collect()
    }

    #[test]
    fn a_refused_offload_costs_one_step_and_is_reported() {
        let tso = ["tunChecksum", "tunTso4", "tunTso6", "tunTsoEcn"];
        assert_eq!(accepted(0), [&tso[..], &["tunUso"]].concat());
        assert_eq!(accepted(USO), tso);
        assert_eq!(accepted(0x20), tso, "half of it is of no use");
        for flag in [TSO4, TSO6, TSO_ECN] {
            assert_eq!(accepted(USO | flag), ["tunChecksum"]);
        }
        assert_eq!(accepted(CHECKSUM), [""; 0]);
        let refuse = |_| Err(io::Error::from_raw_os_error(libc::EPERM));
        let error = first_accepted(&OFFLOADS, refuse).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
