//! The tunnel's UDP sockets: one that receives on the tunnel's port, and for VXLAN several that send from ports of their
//! own.
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::control::Control;
use super::poll::Stop;
use super::{check, handed};
use crate::port::{DatagramPort, INBOX_SLOT_BYTES, INBOX_SLOTS, Outgoing, Received, Span, Wake};

/// Source ports to spread flows over: what a NIC's queues and equal-cost paths are chosen by.
pub const SENDERS: usize = 8;
/// Bytes asked for; without CAP_NET_ADMIN the kernel gives what net.core.rmem_max allows.
const RECEIVE_BUFFER_BYTES: c_int = 8 << 20;
const SEND_BUFFER_BYTES: c_int = 1 << 20;
/// Slots of one recvmmsg while little comes.
const FEW: usize = 8;
/// Messages and pieces of one sendmmsg.
const MESSAGES: usize = 64;
const PIECES: usize = 512;

/// Which sockets a tunnel has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Layout {
    /// One on the wildcard address that receives, as the kernel's VXLAN device, and several that send.
    #[default]
    Spread,
    /// One on the local address for both, as flannel's udp backend: datagrams leave from the port that they go to.
    Single,
    /// A raw one on the local IPv4 address for both, that carries packets in IP itself (protocol 4, RFC 2003). What it
    /// receives begins with the outer header.
    Raw,
}

/// The sockets of one engine.
#[derive(Debug)]
pub struct Udp {
    receiver: OwnedFd,
    /// Without any the receiver sends.
    senders: Vec<OwnedFd>,
    port: u16,
    stop: Arc<Stop>,
    gro: bool,
    gso: bool,
}

/// Sockets of an engine in another process.
#[derive(Debug, Default)]
pub struct Handed {
    /// The one that receives.
    pub receiver: Option<OwnedFd>,
    /// Those that send.
    pub senders: Vec<OwnedFd>,
}

/// Which socket could not be opened, and why.
#[derive(Debug)]
pub enum OpenError {
    /// The one that receives, on the wildcard address and the port.
    Receiver(io::Error),
    /// One that sends, from the local address.
    Sender(io::Error),
}

impl Udp {
    /// Binds the wildcard address of `local`'s family to `port` (as the kernel's device does), and the sending
    /// sockets to `local`. Probes segmentation and its reverse.
    pub fn open(local: IpAddr, port: u16, stop: Arc<Stop>) -> Result<Self, OpenError> {
        Self::open_or_adopt(local, port, Layout::Spread, Handed::default(), stop)
    }

    /// As `open`, but goes on with sockets that another process opened, and with what waits in them; `check_receiver`
    /// and `check_sender` have found that they fit.
    pub fn open_or_adopt(
        local: IpAddr,
        port: u16,
        layout: Layout,
        handed: Handed,
        stop: Arc<Stop>,
    ) -> Result<Self, OpenError> {
        let switch_on =
            |fd: &OwnedFd, option: c_int, value: c_int| set(fd, libc::SOL_UDP, option, value);
        Self::open_with(local, port, layout, handed, stop, switch_on)
    }

    /// The sockets: the one that receives, and those that send.
    pub fn sockets(&self) -> (BorrowedFd<'_>, impl Iterator<Item = BorrowedFd<'_>>) {
        (self.receiver.as_fd(), self.senders.iter().map(AsFd::as_fd))
    }

    /// As `open`; `switch_on` sets an option of SOL_UDP, or says that there is none such.
    fn open_with(
        local: IpAddr,
        port: u16,
        layout: Layout,
        handed: Handed,
        stop: Arc<Stop>,
        switch_on: impl Fn(&OwnedFd, c_int, c_int) -> io::Result<()>,
    ) -> Result<Self, OpenError> {
        // First, because a missing local address says more than anything else about what is wrong.
        let mut old = handed.senders.into_iter();
        let count = if layout == Layout::Spread { SENDERS } else { 0 };
        let senders = (0..count)
            .map(|_| match old.next() {
                Some(sender) => prepare_sender(&sender, local).map(|()| sender),
                None => open_sender(local),
            })
            .collect::<io::Result<Vec<_>>>();
        let senders = senders.map_err(OpenError::Sender)?;
        let receiver = match handed.receiver {
            Some(receiver) => prepare_receiver(&receiver, local).map(|()| receiver),
            None => open_receiver(local, port, layout),
        };
        let receiver = receiver.map_err(OpenError::Receiver)?;
        if layout != Layout::Spread {
            prepare_sender(&receiver, local).map_err(OpenError::Sender)?;
        }
        let gro = switch_on(&receiver, libc::UDP_GRO, 1).is_ok();
        // Segment size 0 is the default: only a kernel without the option refuses it.
        let gso = senders
            .iter()
            .chain((layout != Layout::Spread).then_some(&receiver))
            .all(|fd| switch_on(fd, libc::UDP_SEGMENT, 0).is_ok());
        Ok(Self {
            receiver,
            senders,
            port,
            stop,
            gro,
            gso,
        })
    }

    /// Whether the kernel joins received datagrams.
    pub fn gro(&self) -> bool {
        self.gro
    }

    fn sender(&self, number: usize) -> io::Result<&OwnedFd> {
        let own = self.senders.get(number);
        let shared = (self.senders.is_empty() && number == 0).then_some(&self.receiver);
        own.or(shared)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Whether the kernel cuts messages into datagrams.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// How often the kernel had something to receive for which there was no room in the buffer; wraps around.
    pub fn receive_drops(&self) -> io::Result<u32> {
        // SK_MEMINFO_VARS and SK_MEMINFO_DROPS of linux/sock_diag.h.
        const VARS: usize = 9;
        const DROPS: usize = 8;
        let mut values = [0u32; VARS];
        let mut len = size_of_val(&values) as libc::socklen_t;
        let fd = self.receiver.as_raw_fd();
        // SAFETY: getsockopt writes at most `len` bytes to `values`; both outlive the call.
        check(unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut len,
            )
        })?;
        let [.., drops] = values;
        Ok(if len as usize > DROPS * 4 { drops } else { 0 })
    }
}

/// Why `fd` cannot be the socket that receives on `port`.
pub fn check_receiver(
    fd: BorrowedFd<'_>,
    local: IpAddr,
    port: u16,
    layout: Layout,
) -> Result<(), &'static str> {
    match check_socket(fd, layout)? {
        bound if bound.ip() != receiving(local, layout) => Err("it is bound to another address"),
        bound if bound.port() != port => Err("it is bound to another port"),
        _ => Ok(()),
    }
}

/// Why `fd` cannot be a socket that sends from `local`.
pub fn check_sender(fd: BorrowedFd<'_>, local: IpAddr) -> Result<(), &'static str> {
    match check_socket(fd, Layout::Spread)? {
        bound if bound.ip() != local => Err("it is bound to another address"),
        bound if bound.port() == 0 => Err("it is bound to no port"),
        _ => Ok(()),
    }
}

fn check_socket(fd: BorrowedFd<'_>, layout: Layout) -> Result<SocketAddr, &'static str> {
    match (layout, handed::kind(fd)) {
        (Layout::Raw, Some(handed::Kind::IpIp)) => {}
        (Layout::Raw, _) => return Err("it is no raw socket for protocol 4"),
        (_, Some(handed::Kind::Udp)) => {}
        _ => return Err("it is no UDP socket"),
    }
    match handed::socket_is_in_our_namespace(fd) {
        Ok(true) => {}
        Ok(false) => return Err("it is in another network namespace"),
        Err(_) => return Err("it does not tell its network namespace"),
    }
    match handed::addresses(fd) {
        Ok((bound, None)) => Ok(bound),
        Ok((_, Some(_))) => Err("it is connected"),
        Err(_) => Err("it does not tell where it is bound"),
    }
}

/// The address that the receiver is bound to.
fn receiving(local: IpAddr, layout: Layout) -> IpAddr {
    match (layout, local) {
        (Layout::Single | Layout::Raw, _) => local,
        (Layout::Spread, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (Layout::Spread, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn open_sender(local: IpAddr) -> io::Result<OwnedFd> {
    let fd = socket(local, Layout::Spread)?;
    prepare_sender(&fd, local)?;
    bind(&fd, SocketAddr::new(local, 0))?;
    Ok(fd)
}

fn prepare_sender(fd: &OwnedFd, local: IpAddr) -> io::Result<()> {
    // No DF and no path MTU of our own, as the kernel's device: the inner packet's sender learns its MTU from the
    // TUN's.
    let (level, option, value) = match local {
        IpAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        ),
        IpAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
    };
    set(fd, level, option, value)?;
    grow(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER_BYTES);
    Ok(())
}

fn open_receiver(local: IpAddr, port: u16, layout: Layout) -> io::Result<OwnedFd> {
    let fd = socket(local, layout)?;
    prepare_receiver(&fd, local)?;
    bind(&fd, SocketAddr::new(receiving(local, layout), port))?;
    Ok(fd)
}

fn prepare_receiver(fd: &OwnedFd, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?,
        IpAddr::V6(_) => set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?,
    }
    grow(
        fd,
        libc::SO_RCVBUFFORCE,
        libc::SO_RCVBUF,
        RECEIVE_BUFFER_BYTES,
    );
    Ok(())
}

/// The socket that receives.
impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl DatagramPort for Udp {
    fn wait_readable(&self) -> io::Result<Wake> {
        self.stop.wait(self.receiver.as_fd(), libc::POLLIN, -1)
    }

    fn receive(
        &self,
        arena: &mut [u8],
        slots: usize,
        received: &mut Vec<Received>,
    ) -> io::Result<()> {
        // Preparing slots costs more than one datagram does: few for a trickle.
        if slots <= FEW {
            receive_into::<FEW>(&self.receiver, arena, slots, received)
        } else {
            receive_into::<INBOX_SLOTS>(&self.receiver, arena, slots, received)
        }
    }

    fn senders(&self) -> usize {
        self.senders.len().max(1)
    }

    fn wait_writable(&self, sender: usize, timeout_ms: i32) -> io::Result<Wake> {
        let fd = self.sender(sender)?;
        self.stop.wait(fd.as_fd(), libc::POLLOUT, timeout_ms)
    }

    fn send(&self, sender: usize, outgoing: &Outgoing<'_>) -> io::Result<usize> {
        let fd = self.sender(sender)?;
        // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
        let mut headers: [libc::mmsghdr; MESSAGES] = unsafe { std::mem::zeroed() };
        let mut iovecs = [EMPTY_IOVEC; PIECES];
        let mut controls = [Control::EMPTY; MESSAGES];
        let mut names = [Name::EMPTY; MESSAGES];
        let mut free = iovecs.as_mut_slice();
        let extras = controls.iter_mut().zip(&mut names);
        let mut count = 0;
        for ((message, header), (control, name)) in
            outgoing.messages.iter().zip(&mut headers).zip(extras)
        {
            let Some((taken, rest)) = free.split_at_mut_checked(message.pieces.len()) else {
                break;
            };
            free = rest;
            for (iovec, part) in taken.iter_mut().zip(outgoing.parts(message)) {
                // The kernel only reads through this pointer.
                iovec.iov_base = part.as_ptr().cast_mut().cast();
                iovec.iov_len = part.len();
            }
            *name = Name::encode(SocketAddr::new(message.endpoint, self.port));
            write_control(
                control,
                message.endpoint,
                message.tos,
                message.segment,
                message.segments,
            );
            header.msg_hdr.msg_iov = taken.as_mut_ptr();
            header.msg_hdr.msg_iovlen = taken.len() as _;
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = name.len();
            if !control.is_empty() {
                header.msg_hdr.msg_control = control.as_mut_ptr();
                header.msg_hdr.msg_controllen = control.len() as _;
            }
            count += 1;
        }
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the first `count` headers point to iovecs, names and control blocks of the lengths given, and
        // those to packet bytes; all outlive the call, and the kernel writes only `msg_len` of the headers.
        let sent = check(unsafe {
            libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags as _)
        })?;
        Ok(sent as usize)
    }
}

fn receive_into<const SLOTS: usize>(
    receiver: &OwnedFd,
    arena: &mut [u8],
    slots: usize,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    received.clear();
    // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
    let mut headers: [libc::mmsghdr; SLOTS] = unsafe { std::mem::zeroed() };
    let mut iovecs = [EMPTY_IOVEC; SLOTS];
    let mut controls = [Control::EMPTY; SLOTS];
    let mut names = [Name::EMPTY; SLOTS];
    let buffers = arena.chunks_exact_mut(INBOX_SLOT_BYTES);
    let extras = iovecs.iter_mut().zip(controls.iter_mut().zip(&mut names));
    let mut count = 0;
    for ((header, buffer), (iovec, (control, name))) in
        headers.iter_mut().zip(buffers).zip(extras).take(slots)
    {
        iovec.iov_base = buffer.as_mut_ptr().cast();
        iovec.iov_len = buffer.len();
        header.msg_hdr.msg_iov = iovec;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = size_of::<Name>() as _;
        header.msg_hdr.msg_control = control.as_mut_ptr();
        header.msg_hdr.msg_controllen = Control::capacity() as _;
        count += 1;
    }
    let (fd, flags) = (receiver.as_raw_fd(), libc::MSG_DONTWAIT);
    // SAFETY: the headers point to buffers, names and control blocks of the lengths given, all of which are
    // exclusively ours and outlive the call; the first `count` headers are filled.
    let filled = check(unsafe {
        libc::recvmmsg(
            fd,
            headers.as_mut_ptr(),
            count,
            flags as _,
            std::ptr::null_mut(),
        )
    })?;
    let filled = headers
        .iter()
        .take(filled as usize)
        .zip(controls.iter().zip(&names));
    for (slot, (header, (control, name))) in filled.enumerate() {
        let Some(source) = name.decode() else {
            continue;
        };
        let (tos, segment) = read_control(control, header.msg_hdr.msg_controllen);
        received.push(Received {
            span: Span {
                start: slot * INBOX_SLOT_BYTES,
                len: header.msg_len as usize,
            },
            source,
            tos,
            segment,
        });
    }
    Ok(())
}

const EMPTY_IOVEC: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn write_control(control: &mut Control, to: IpAddr, tos: u8, segment: usize, segments: usize) {
    if segments > 1 {
        control.push(
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &(segment as u16).to_ne_bytes(),
        );
    }
    if tos != 0 {
        let tos = c_int::from(tos).to_ne_bytes();
        match to {
            IpAddr::V4(_) => control.push(libc::IPPROTO_IP, libc::IP_TOS, &tos),
            IpAddr::V6(_) => control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
        }
    }
}

/// TOS and segment size that came with a message; 0 for what did not come.
fn read_control(control: &Control, len: usize) -> (u8, usize) {
    let (mut tos, mut segment) = (0, 0);
    for (level, kind, data) in control.entries(len) {
        let number = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.first().copied().unwrap_or(0),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => tos = number.unwrap_or(0) as u8,
            (libc::SOL_UDP, libc::UDP_GRO) => segment = number.map_or(0, |n| n.max(0) as usize),
            _ => {}
        }
    }
    (tos, segment)
}

fn socket(local: IpAddr, layout: Layout) -> io::Result<OwnedFd> {
    let family = if local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let (kind, protocol) = match layout {
        Layout::Raw => (libc::SOCK_RAW, libc::IPPROTO_IPIP),
        _ => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    };
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three numbers and touches no memory of ours.
    let fd = check(unsafe { libc::socket(family, kind, protocol) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if !local.is_ipv4() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(fd)
}

fn set(fd: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: setsockopt reads the int, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    })?;
    Ok(())
}

/// Asks for a buffer of `bytes`, beyond the system's limit where we may. What it gets is good enough.
fn grow(fd: &OwnedFd, forced: c_int, asked: c_int, bytes: c_int) {
    let _ = set(fd, libc::SOL_SOCKET, forced, bytes)
        .or_else(|_| set(fd, libc::SOL_SOCKET, asked, bytes));
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let name = Name::encode(address);
    // SAFETY: bind reads `len` bytes of the name, which outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), name.len()) })?;
    Ok(())
}

/// A socket address as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    fn encode(address: SocketAddr) -> Self {
        let mut name = Self::EMPTY;
        match address.ip() {
            IpAddr::V4(ip) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(ip).to_be(),
                    },
                    sin_zero: [0; 8],
                };
            }
            IpAddr::V6(ip) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    sin6_scope_id: 0,
                };
            }
        }
        name
    }

    fn family(&self) -> c_int {
        // SAFETY: every variant begins with the family, and all bytes are initialised from EMPTY on.
        c_int::from(unsafe { self.family })
    }

    fn len(&self) -> libc::socklen_t {
        let len = match self.family() {
            libc::AF_INET => size_of::<libc::sockaddr_in>(),
            _ => size_of::<libc::sockaddr_in6>(),
        };
        len as libc::socklen_t
    }

    fn decode(&self) -> Option<IpAddr> {
        match self.family() {
            libc::AF_INET => {
                // SAFETY: all bytes are initialised, and any bytes are a valid sockaddr_in.
                let v4 = unsafe { self.v4 };
                Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: all bytes are initialised, and any bytes are a valid sockaddr_in6.
                let v6 = unsafe { self.v6 };
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Area, Message, Piece};

    /// Opens sockets of a kernel that does not know `unknown`, on a port that is free.
    fn open_somewhere(local: IpAddr, unknown: &[c_int], layout: Layout) -> Udp {
        let switch_on = |fd: &OwnedFd, option: c_int, value: c_int| match unknown.contains(&option)
        {
            false => set(fd, libc::SOL_UDP, option, value),
            true => Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT)),
        };
        for _ in 0..100 {
            // Bind 0 to learn a free port; somebody else may take it in between.
            let probe = std::net::UdpSocket::bind((local, 0)).unwrap();
            let port = probe.local_addr().unwrap().port();
            drop(probe);
            let stop = Arc::new(Stop::new().unwrap());
            match Udp::open_with(local, port, layout, Handed::default(), stop, switch_on) {
                Err(OpenError::Receiver(e)) if e.raw_os_error() == Some(libc::EADDRINUSE) => {}
                opened => return opened.unwrap(),
            }
        }
        panic!("no free port");
    }

    /// Sends messages from sockets of a kernel that does not know `unknown` to themselves.
    fn exchange(local: &str, unknown: &[c_int]) -> Udp {
        exchange_with(local, unknown, Layout::Spread)
    }

    fn exchange_with(local: &str, unknown: &[c_int], layout: Layout) -> Udp {
        let local: IpAddr = local.parse().unwrap();
        let udp = open_somewhere(local, unknown, layout);
        let packets: Vec<u8> = (0..250u8).collect();
        let piece = |start, len| Piece {
            area: Area::Packets,
            span: Span { start, len },
        };
        let pieces = [piece(0, 60), piece(60, 40), piece(100, 100), piece(200, 50)];
        let message = |tos, segments, bytes, pieces| Message {
            endpoint: local,
            tos,
            peer: 0,
            segment: 100,
            segments,
            bytes,
            pieces,
        };
        let segmented = if udp.gso() { 3 } else { 1 };
        let messages = [message(2, segmented, 250, 0..4), message(0, 1, 100, 0..2)];
        let outgoing = Outgoing {
            packets: &packets,
            headers: &[],
            pieces: &pieces,
            messages: &messages,
        };
        assert_eq!(udp.send(0, &outgoing).unwrap(), 2);
        let mut arena = vec![0; crate::port::INBOX_BYTES];
        let (mut received, mut bytes, mut toses) = (Vec::new(), Vec::new(), Vec::new());
        while bytes.len() < 350 {
            assert_eq!(udp.wait_readable().unwrap(), Wake::Ready);
            udp.receive(&mut arena, FEW, &mut received).unwrap();
            for one in &received {
                assert_eq!(one.source, local);
                bytes.extend_from_slice(one.span.of(&arena));
                toses.push(one.tos);
            }
        }
        assert_eq!(bytes, [&packets[..], &packets[..100]].concat());
        assert_eq!((toses.first(), toses.last()), (Some(&2), Some(&0)));
        let error = udp.receive(&mut arena, FEW, &mut received).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        udp
    }

    #[test]
    fn a_kernel_without_segmentation_or_its_reverse_carries_all_the_same() {
        let udp = exchange("127.0.0.1", &[libc::UDP_SEGMENT]);
        assert!(!udp.gso());
        let udp = exchange("127.0.0.1", &[libc::UDP_GRO]);
        assert!(!udp.gro());
        let udp = exchange("::1", &[libc::UDP_GRO, libc::UDP_SEGMENT]);
        assert!(!udp.gro() && !udp.gso());
    }

    #[test]
    fn messages_arrive_with_their_tos_over_ipv4() {
        exchange("127.0.0.1", &[]);
    }

    #[test]
    fn messages_arrive_with_their_class_over_ipv6() {
        exchange("::1", &[]);
    }

    #[test]
    fn what_the_receive_buffer_has_no_room_for_is_counted() {
        let udp = open_somewhere([127, 0, 0, 1].into(), &[], Layout::Spread);
        set(&udp.receiver, libc::SOL_SOCKET, libc::SO_RCVBUF, 4_096).unwrap();
        assert_eq!(udp.receive_drops().unwrap(), 0);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender
                .send_to(&[0; 1_000], ("127.0.0.1", udp.port))
                .unwrap();
        }
        let dropped = udp.receive_drops().unwrap();
        assert!((90..100).contains(&dropped), "{dropped}");
    }

    #[test]
    fn one_socket_for_both_directions_sends_from_the_port_it_receives_on() {
        for local in ["127.0.0.1", "::1"] {
            let udp = exchange_with(local, &[], Layout::Single);
            assert_eq!((udp.senders(), udp.sockets().1.count()), (1, 0));
            let local: IpAddr = local.parse().unwrap();
            let (bound, peer) = handed::addresses(udp.sockets().0).unwrap();
            assert_eq!(
                (bound, peer),
                (SocketAddr::new(local, udp.port), None),
                "what it sends comes from there"
            );
            assert!(udp.wait_writable(1, 0).is_err(), "there is no other");
        }
    }

    #[test]
    fn a_taken_port_and_a_foreign_address_are_told_apart() {
        let stop = Arc::new(Stop::new().unwrap());
        let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Udp::open([127, 0, 0, 1].into(), port, Arc::clone(&stop)).unwrap_err();
        assert!(
            matches!(error, OpenError::Receiver(e) if e.raw_os_error() == Some(libc::EADDRINUSE))
        );
        let error = Udp::open([192, 0, 2, 77].into(), port, stop).unwrap_err();
        assert!(
            matches!(error, OpenError::Sender(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL))
        );
    }

    #[test]
    fn handed_sockets_are_taken_with_what_waits_in_them_and_others_refused() {
        let local: IpAddr = [127, 0, 0, 1].into();
        let stop = || Arc::new(Stop::new().unwrap());
        let free = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let udp = Udp::open(local, port, stop()).unwrap();
        let (receiver, senders) = udp.sockets();
        match check_receiver(receiver, local, port, Layout::Spread) {
            Ok(()) => {}
            // Telling the namespace takes CAP_NET_ADMIN.
            Err(why) => return assert_eq!(why, "it does not tell its network namespace"),
        }
        assert_eq!(
            check_receiver(receiver, local, port ^ 1, Layout::Spread),
            Err("it is bound to another port")
        );
        assert_eq!(
            check_receiver(receiver, Ipv6Addr::LOCALHOST.into(), port, Layout::Spread),
            Err("it is bound to another address")
        );
        assert_eq!(
            check_receiver(receiver, local, port, Layout::Single),
            Err("it is bound to another address")
        );
        assert_eq!(
            check_sender(receiver, local),
            Err("it is bound to another address")
        );
        let connected = std::net::UdpSocket::bind((local, 0)).unwrap();
        connected.connect((local, port)).unwrap();
        assert_eq!(
            check_sender(connected.as_fd(), local),
            Err("it is connected")
        );
        let listener = std::net::TcpListener::bind((local, 0)).unwrap();
        assert_eq!(
            check_sender(listener.as_fd(), local),
            Err("it is no UDP socket")
        );

        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        let handed = Handed {
            receiver: Some(copy(receiver)),
            senders: senders
                .map(|fd| {
                    assert_eq!(check_sender(fd, local), Ok(()));
                    copy(fd)
                })
                .collect(),
        };
        let ports = |udp: &Udp| -> Vec<_> {
            let (_, senders) = udp.sockets();
            senders
                .map(|fd| handed::addresses(fd).unwrap().0.port())
                .collect()
        };
        let before = ports(&udp);
        connected.send(b"waiting").unwrap();
        drop(udp);
        let udp = Udp::open_or_adopt(local, port, Layout::Spread, handed, stop()).unwrap();
        assert_eq!(ports(&udp), before);
        let mut arena = vec![0; crate::port::INBOX_BYTES];
        let mut received = Vec::new();
        udp.receive(&mut arena, FEW, &mut received).unwrap();
        assert_eq!(received[0].span.of(&arena), b"waiting");
    }
}
