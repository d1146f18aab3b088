//! Which process holds a netlink port: best effort, and never an innocent one.
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// A netlink socket bound without a port gets the process's id, or a number above all ids where that is taken.
const PID_MAX: u32 = 1 << 22;
/// A file of /proc is read up to here; lines beyond are not looked at.
const FILE_LEN_MAX: u64 = 1 << 20;
/// So many processes and descriptors of each are looked at.
const PROCESSES_MAX: usize = 4096;
const DESCRIPTORS_MAX: usize = 1024;
/// The kernel's names of processes are shorter (TASK_COMM_LEN); kernel threads' may be longer.
const NAME_LEN_MAX: usize = 64;

/// PF_EXITING of a task's flags.
const EXITING: u32 = 0x4;

/// A process as /proc shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Owner {
    /// 0 when unknown.
    pub pid: u32,
    /// Its name with control characters replaced, empty when unknown.
    pub process: String,
}

impl Owner {
    /// Who holds the rtnetlink port `port`, or held it and is just ending; nobody where that is not certain,
    /// since a process of another pid namespace binds the number it has there.
    pub(super) fn find(proc: &Path, port: u32) -> Self {
        let inode = socket_inode(proc, port);
        if let Some(inode) = inode {
            let own = std::process::id();
            if holds(&proc.join("self"), inode) {
                return named(proc, own);
            }
            if port <= PID_MAX && holds(&process_directory(proc, port), inode) {
                return named(proc, port);
            }
        }
        if port <= PID_MAX && is_ending(&process_directory(proc, port)) {
            return named(proc, port);
        }
        // Asked again: most who are gone by now have taken the socket with them.
        match inode.and_then(|_| socket_inode(proc, port)) {
            Some(inode) => holder(proc, inode).map_or_else(Self::default, |pid| named(proc, pid)),
            None => Self::default(),
        }
    }
}

fn process_directory(proc: &Path, pid: u32) -> std::path::PathBuf {
    proc.join(pid.to_string())
}

/// The inode of the rtnetlink socket with that port, from `net/netlink`: sk, protocol, port, … inode.
fn socket_inode(proc: &Path, port: u32) -> Option<u64> {
    let text = read(&proc.join("self/net/netlink"))?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (protocol, held) = (fields.get(1)?, fields.get(2)?);
        let is_it = *protocol == "0" && held.parse() == Ok(port);
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

fn holds(process: &Path, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .take(DESCRIPTORS_MAX)
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == &*wanted))
}

fn holder(proc: &Path, inode: u64) -> Option<u32> {
    let processes = fs::read_dir(proc).ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.take(PROCESSES_MAX)
        .find(|pid| holds(&process_directory(proc, *pid), inode))
}

/// A process that has given its sockets back already, or is about to.
fn is_ending(process: &Path) -> bool {
    // pid (name) state ppid pgrp session tty tpgid flags …; a name may have spaces and parentheses.
    let Some(text) = read(&process.join("stat")) else {
        return false;
    };
    let Some((_, rest)) = text.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let flags = fields.get(6).and_then(|flags| flags.parse::<u32>().ok());
    matches!(fields.first(), Some(&("Z" | "X"))) || flags.is_some_and(|flags| flags & EXITING != 0)
}

fn named(proc: &Path, pid: u32) -> Owner {
    let comm = read(&process_directory(proc, pid).join("comm")).unwrap_or_default();
    let process = comm
        .trim_end_matches('\n')
        .chars()
        .take(NAME_LEN_MAX)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    Owner { pid, process }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A /proc made by hand, taken away with the value.
    struct Proc(PathBuf);

    impl Drop for Proc {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn open_proc(netlink: &[u8]) -> Proc {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fl-proc-{}-{number}", std::process::id());
        let proc = Proc(std::env::temp_dir().join(name));
        fs::create_dir_all(proc.0.join("self/net")).unwrap();
        fs::create_dir_all(proc.0.join("self/fd")).unwrap();
        fs::write(proc.0.join("self/net/netlink"), netlink).unwrap();
        proc
    }

    impl Proc {
        fn process(&self, pid: u32, comm: &[u8], stat: &str, sockets: &[u64]) {
            let directory = process_directory(&self.0, pid);
            fs::create_dir_all(directory.join("fd")).unwrap();
            fs::write(directory.join("comm"), comm).unwrap();
            fs::write(directory.join("stat"), stat).unwrap();
            for (at, inode) in sockets.iter().enumerate() {
                let target = format!("socket:[{inode}]");
                symlink(target, directory.join("fd").join(at.to_string())).unwrap();
            }
        }

        fn find(&self, port: u32) -> Owner {
            Owner::find(&self.0, port)
        }
    }

    const TABLE: &str =
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 4   77         00000000 0        0        0     2        0        13
0000000000000000 0   77         00000000 0        0        0     2        0        14
0000000000000000 0   4294962711 000405d5 0        0        0     2        0        15
";
    const ALIVE: &str = "(ip) S 1 1 1 0 -1 4194560";

    fn owner(pid: u32, process: &str) -> Owner {
        Owner {
            pid,
            process: process.to_owned(),
        }
    }

    #[test]
    fn a_port_is_a_pid_where_that_process_holds_the_socket() {
        let proc = open_proc(TABLE.as_bytes());
        proc.process(77, b"ip\n", ALIVE, &[3, 14]);
        assert_eq!(proc.find(77), owner(77, "ip"));
    }

    #[test]
    fn an_innocent_process_with_the_ports_number_is_not_named() {
        let proc = open_proc(TABLE.as_bytes());
        proc.process(77, b"innocent\n", ALIVE, &[13]);
        assert_eq!(proc.find(77), Owner::default());
        proc.process(78, b"culprit\n", ALIVE, &[14]);
        assert_eq!(proc.find(77), owner(78, "culprit"));
        proc.process(99, b"innocent\n", ALIVE, &[]);
        assert_eq!(proc.find(99), Owner::default());
    }

    #[test]
    fn a_port_that_is_no_pid_is_found_by_its_socket() {
        let proc = open_proc(TABLE.as_bytes());
        proc.process(78, b"networkd\n", ALIVE, &[15]);
        assert_eq!(proc.find(4_294_962_711), owner(78, "networkd"));
    }

    #[test]
    fn one_that_is_ending_is_named_although_its_socket_is_gone() {
        let proc = open_proc(b"");
        proc.process(77, b"ip\n", "77 (i) p) Z 1 1 1 0 -1 0", &[]);
        proc.process(78, b"ip\n", "78 (ip) R 1 1 1 0 -1 4194564", &[]);
        assert_eq!(proc.find(77), owner(77, "ip"));
        assert_eq!(proc.find(78), owner(78, "ip"));
    }

    #[test]
    fn hostile_files_name_nobody_and_hostile_names_are_made_plain() {
        let proc = open_proc(TABLE.as_bytes());
        let long = [b"\x1b[2J\n\xff".as_slice(), &[b'a'; 5000]].concat();
        proc.process(77, &long, ALIVE, &[14]);
        let found = proc.find(77).process;
        assert!(found.starts_with("?[2J?\u{fffd}aaa"), "{found}");
        assert_eq!(found.chars().count(), NAME_LEN_MAX);
        for table in [
            b"\xff\xfe\n0 0\n0 0 77\n0 0 77 0 0 0 0 0 0 x\n".as_slice(),
            b"0 0 -1 0 0 0 0 0 0 1",
            &[b'0'; 100_000],
        ] {
            let proc = open_proc(table);
            proc.process(77, b"ip", "77 (ip", &[1]);
            assert_eq!(proc.find(77), Owner::default());
        }
        let nowhere = Path::new("/nonexistent");
        assert_eq!(Owner::find(nowhere, 77), Owner::default());
    }
}
