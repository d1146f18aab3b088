//! Why packets are dropped.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident => $text:literal,)+) => {
        /// Why a packet was dropped. One counter each; never logged per packet.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum DropReason { $($(#[$doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The counter's name, stable and public.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Outbound: the destination lies in no peer's subnets.
    NoRoute => "noRoute",
    /// Outbound: to a multicast group or broadcast, which the overlay does not carry.
    Multicast => "multicast",
    /// Neither IPv4 nor IPv6, or lengths that contradict each other.
    NotIp => "notIp",
    /// Shorter than its own headers say.
    Truncated => "truncated",
    /// Outbound: the kernel asked for segmentation or a checksum in a way that we cannot do.
    BadOffload => "badOffload",
    /// Inbound: no VXLAN header, or its VNI flag is clear.
    BadVxlan => "badVxlan",
    /// Inbound: another VXLAN network.
    WrongVni => "wrongVni",
    /// Inbound: the inner frame is for another Ethernet address.
    WrongMac => "wrongMac",
    /// Inbound: an ARP frame; nothing is asked or answered here.
    Arp => "arp",
    /// Inbound: the inner frame is neither IPv4 nor IPv6 (nor ARP), or not what its type says.
    NotIpFrame => "notIpFrame",
    /// Inbound: the outer source is no peer's endpoint and not in allowSources.
    UnknownSender => "unknownSender",
    /// Inbound: the inner source is an overlay address that the outer source does not hold.
    SpoofedSource => "spoofedSource",
    /// Inbound: the inner source is outside the overlay, which strict `full` refuses.
    OutsideOverlay => "outsideOverlay",
    /// Inbound: congestion marked outside, and the inner packet cannot carry the mark (RFC 6040 §4.2).
    EcnCe => "ecnCe",
    /// TTL or hop limit ran out at our end of the tunnel, which is a hop where packets are carried bare.
    TtlExceeded => "ttlExceeded",
    /// Outbound: the UDP socket refused the packet (no route to the peer, a firewall …).
    SocketError => "socketError",
    /// Outbound: the UDP socket stayed full for longer than we wait.
    SendQueueFull => "sendQueueFull",
    /// Outbound: the TUN's queue was full: the host sends faster than packets are carried. The kernel's count.
    TunQueueFull => "tunQueueFull",
    /// Inbound: the socket's buffer was full: packets come faster than they are carried. The kernel's count of buffers,
    /// each of one or more datagrams.
    ReceiveBufferFull => "receiveBufferFull",
    /// The TUN device refused the packet.
    TunError => "tunError",
    /// Inbound: the TUN device is down.
    TunDown => "tunDown",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_counters_and_names_differ() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            let same = DropReason::ALL
                .iter()
                .filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1, "{reason:?}");
        }
    }
}
