//! How much memory this machine could give to a node.

/// Bytes that a node could offer for weights and KV caches, without pushing anything else out of memory.
///
/// Linux says itself what is available without swapping (`MemAvailable`, and what the control group leaves); four fifths
/// of the smaller one are offered. Elsewhere, an allocation is tried from 64 GiB downwards, and half of what succeeds is
/// offered, because systems promise more than they have. Nothing is kept allocated.
pub fn memory_bytes() -> u64 {
    match linux_available() {
        Some(bytes) => largest_allocation(bytes / 5 * 4),
        None => largest_allocation(64 << 30) / 2,
    }
}

/// What the kernel and the control group leave, whichever is less.
fn linux_available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let free = available_of(&read("/proc/meminfo")?)?;
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|max| max.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    Some(group.map_or(free, |group| group.min(free)))
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
    fn what_is_offered_can_be_allocated() {
        let bytes = memory_bytes();
        assert!(bytes > 0);
        assert!(Vec::<u8>::new().try_reserve_exact(bytes as usize / 2).is_ok());
        assert!(largest_allocation(u64::MAX) < u64::MAX);
    }
}
