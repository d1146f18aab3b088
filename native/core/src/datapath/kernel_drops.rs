//! What the kernel drops at our ports because we are slower than what comes: it counts that itself.
use std::fs;

use crate::forward::drop::DropReason;

/// Drops since the engine opened.
#[derive(Debug, Default)]
pub struct KernelDrops {
    queue: u64,
    queue_seen: Option<u64>,
    buffer: u64,
    buffer_seen: Option<u32>,
}

impl KernelDrops {
    /// Takes in what the kernel's counters say now, where they can be read; the first look is where counting begins.
    /// `queue` is the device's, and begins anew with it; `buffer` the socket's, which wraps around.
    pub fn look(&mut self, queue: Option<u64>, buffer: Option<u32>) {
        if let (Some(now), Some(before)) = (queue, self.queue_seen) {
            self.queue += now.checked_sub(before).unwrap_or(now);
        }
        if let (Some(now), Some(before)) = (buffer, self.buffer_seen) {
            self.buffer += u64::from(now.wrapping_sub(before));
        }
        self.queue_seen = queue.or(self.queue_seen);
        self.buffer_seen = buffer.or(self.buffer_seen);
    }

    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        match reason {
            DropReason::TunQueueFull => self.queue,
            DropReason::ReceiveBufferFull => self.buffer,
            _ => 0,
        }
    }
}

/// Packets that did not fit into the queue of TUN `device` since it was made.
pub fn queue_drops(device: &str) -> Option<u64> {
    drops_of(device, &fs::read_to_string("/proc/net/dev").ok()?)
}

/// From the text of /proc/net/dev (net/core/net-procfs.c): eight numbers of what came in, then bytes, packets, errors and
/// drops of what went out.
fn drops_of(device: &str, text: &str) -> Option<u64> {
    const SENT_DROPS: usize = 8 + 3;
    let numbers = text.lines().find_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        (name.trim() == device).then_some(numbers)
    });
    numbers?.split_whitespace().nth(SENT_DROPS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_counts_from_the_first_look_on() {
        let mut drops = KernelDrops::default();
        let counts = |drops: &KernelDrops| {
            [
                DropReason::TunQueueFull,
                DropReason::ReceiveBufferFull,
                DropReason::NoRoute,
            ]
            .map(|reason| drops.dropped(reason))
        };
        drops.look(Some(1_000), Some(u32::MAX - 1));
        assert_eq!(counts(&drops), [0, 0, 0]);
        drops.look(Some(1_007), Some(3));
        assert_eq!(
            counts(&drops),
            [7, 5, 0],
            "the socket's counter wraps around"
        );
        drops.look(None, None);
        assert_eq!(counts(&drops), [7, 5, 0]);
        drops.look(Some(2), Some(3));
        assert_eq!(counts(&drops), [9, 5, 0], "a new device counts from zero");
    }

    #[test]
    fn a_devices_line_is_found_and_garbage_is_not_believed() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n\
                    flannel.10: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n\
                    flannel.1:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n short: 1 2\n odd: 1 2 3 4 5 6 7 8 9 10 11 x\n";
        assert_eq!(drops_of("flannel.1", text), Some(12));
        assert_eq!(drops_of("flannel.10", text), Some(99));
        for device in ["flannel", "short", "odd", ""] {
            assert_eq!(drops_of(device, text), None, "{device}");
        }
        assert!(queue_drops("lo").is_some());
    }
}
