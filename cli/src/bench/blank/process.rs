//! What a thread and a process cost, as Linux says it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Bytes of this process in memory. What the system holds for its sockets is not counted.
pub(in super::super) fn resident_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("/proc/self/status has no VmRSS")? * 1024)
}

/// What this process's threads of a name have computed until now.
pub(in super::super) fn cpu_time(name: &str) -> Result<Duration> {
    // The system cuts names to 15 bytes.
    let name = &name[..name.len().min(15)];
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").context("cannot list this process's threads")? {
        let task = task?.path();
        // A thread may be gone meanwhile.
        let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
        if read("comm").trim_end() == name {
            let times = read("schedstat");
            sum += times.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).context("no schedstat here")?;
        }
    }
    Ok(Duration::from_nanos(sum))
}

/// One core for threads that are started while this lives; the calling thread has the others afterwards.
pub(super) struct Core {
    others: CpuSet,
}

impl Core {
    /// The first core of those that the calling thread may run on; nothing where it is the only one.
    pub(super) fn take() -> Result<Option<Self>> {
        let mut others = sched_getaffinity(None).context("cannot ask for this thread's cores")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| others.is_set(*core)).collect();
        let [first, _, ..] = cores[..] else { return Ok(None) };
        others.unset(first);
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).context("cannot stay on one core")?;
        Ok(Some(Self { others }))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Otherwise this thread stays where the others are, which costs time and no more.
        let _ = sched_setaffinity(None, &self.others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_is_resident_and_work_takes_time_of_its_thread() {
        let before = resident_bytes().unwrap();
        let memory = vec![1u8; 64 << 20];
        assert!(resident_bytes().unwrap() >= before + (60 << 20));
        assert!(std::hint::black_box(memory).len() == 64 << 20);
        let worker = std::thread::Builder::new().name("a-thread-with-a-long-name".into()).spawn(|| {
            let mut sum = 0u64;
            while cpu_time("a-thread-with-a-long-name").unwrap() < Duration::from_millis(5) {
                sum = std::hint::black_box(sum + 1);
            }
        });
        worker.unwrap().join().unwrap();
        assert_eq!(cpu_time("no such thread").unwrap(), Duration::ZERO);
    }

    #[test]
    fn a_thread_of_the_core_is_on_one_core_and_the_caller_on_none_of_it() {
        let Some(core) = Core::take().unwrap() else { return };
        let of_child = std::thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap();
        assert_eq!(of_child.count(), 1);
        drop(core);
        let own = sched_getaffinity(None).unwrap();
        assert!((0..CpuSet::MAX_CPU).all(|core| !(own.is_set(core) && of_child.is_set(core))));
    }
}
