//! How much memory this machine could give to a node.

use std::path::Path;

/// Bytes that a node could offer for weights and KV caches, without pushing anything else out of memory.
///
/// Linux says itself what is available without swapping (`MemAvailable`, and what the control groups leave); four fifths
/// of the smaller one are offered. Elsewhere nothing is asked of the system, and an allocation proves little, because
/// systems promise more than they have: 4 GiB are offered, or less where the allocator refuses that. Nothing is
/// kept allocated.
pub fn memory_bytes() -> u64 {
    largest_allocation(linux_available().map_or(ELSEWHERE, |bytes| bytes / 5 * 4))
}

/// What the kernel and the control groups leave, whichever is less.
fn linux_available() -> Option<u64> {
    let free = available_of(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(group_left(Path::new("/sys/fs/cgroup"), own_group(&own)).map_or(free, |group| group.min(free)))
}

/// The control group of a `/proc/self/cgroup`, version 2; the root where it names none.
fn own_group(cgroup: &str) -> &str {
    cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("")
}

/// What the group `own` below `root` and all groups around it leave, whichever is less; nothing where none has a limit.
/// Files that the kernel only remembers (`inactive_file`) give way to a node, so they count as free.
fn group_left(root: &Path, own: &str) -> Option<u64> {
    let left = |group: &Path| {
        let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let max = number("memory.max")?;
        let used = number("memory.current").unwrap_or(0);
        let remembered = read("memory.stat").and_then(|stat| inactive_file(&stat)).unwrap_or(0);
        Some(max.saturating_sub(used.saturating_sub(remembered)))
    };
    root.join(own).ancestors().take_while(|group| group.starts_with(root)).filter_map(left).min()
}

/// `inactive_file` of a `memory.stat`, in bytes.
fn inactive_file(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().ok()
}

/// `MemAvailable` of a `/proc/meminfo`, in bytes.
fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The largest of `bytes`, three quarters of it, and so on, that the allocator reserves.
fn largest_allocation(bytes: u64) -> u64 {
    let smaller = |bytes: &u64| (*bytes > 0).then_some(bytes / 4 * 3);
    let reserves =
        |bytes: &u64| usize::try_from(*bytes).is_ok_and(|len| Vec::<u8>::new().try_reserve_exact(len).is_ok());
    std::iter::successors(Some(bytes), smaller).find(reserves).unwrap_or(0)
}

/// Offered where the system is not asked: a machine that runs a node has this beside its other work.
const ELSEWHERE: u64 = 4 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   20000000 kB\nBuffers: 0 kB\n";
        assert_eq!(available_of(text), Some(20_000_000 * 1024));
        assert_eq!(available_of("MemTotal: 1 kB\n"), None);
        assert_eq!(available_of("MemAvailable: many\n"), None);
    }

    #[test]
    fn the_tightest_group_around_counts_without_the_files_that_are_only_remembered() {
        let root = tempfile::tempdir().unwrap();
        let own = own_group("12:memory:/old\n0::/user/node\n");
        assert_eq!((own, own_group("12:memory:/old\n")), ("user/node", ""));
        let group = |path: &str, max: &str, current: &str, stat: &str| {
            let folder = root.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            for (name, text) in [("memory.max", max), ("memory.current", current), ("memory.stat", stat)] {
                std::fs::write(folder.join(name), text).unwrap();
            }
        };
        group("user/node", "max\n", "5\n", "");
        assert_eq!(group_left(root.path(), own), None);
        group("user", "1000\n", "600\n", "active_file 7\ninactive_file 250\n");
        assert_eq!(group_left(root.path(), own), Some(650));
        group("user/node", "900\n", "500\n", "inactive_file 0\n");
        assert_eq!(group_left(root.path(), own), Some(400));
        group("", "10\n", "20\n", "");
        assert_eq!(group_left(root.path(), "gone/elsewhere"), Some(0));
    }

    #[test]
    fn what_is_offered_can_be_allocated() {
        let bytes = memory_bytes();
        assert!(bytes > 0);
        assert!(Vec::<u8>::new().try_reserve_exact(bytes as usize / 2).is_ok());
        assert!(largest_allocation(u64::MAX) < u64::MAX);
    }
}
