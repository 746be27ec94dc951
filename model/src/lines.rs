//! Memory for kernels: zeros that begin at a cache line, in huge pages where the system has them.
//!
//! A decode step reads every weight once. With pages of 4 KiB it looks up a page for every 64 lines, and the CPU's
//! prefetcher stops at each page's end.

use std::collections::TryReserveError;

use bytemuck::{Pod, Zeroable};

/// Zeros at first, from a cache line's begin on (64 bytes, and an AVX-512 register), so that no register's load straddles
/// two lines.
pub struct Lines {
    memory: Memory,
    bytes: usize,
}

enum Memory {
    Heap(Vec<Line>),
    #[cfg(target_os = "linux")]
    Pages(pages::Pages),
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Lines {
    /// `len` zeros of type `T`; `None` when there is no room. The memory is written, so what the system only promises is
    /// found out now and not in the middle of a token.
    pub fn zeroed<T: Pod>(len: usize) -> Option<Self> {
        Self::of_bytes(len.checked_mul(size_of::<T>())?).ok()
    }

    /// As [`Lines::zeroed`].
    pub(crate) fn of_bytes(bytes: usize) -> Result<Self, TryReserveError> {
        // Where the system gives no pages of its own, the heap decides, and says why.
        #[cfg(target_os = "linux")]
        if let Some(pages) = pages::Pages::zeroed(bytes) {
            return Ok(Self { memory: Memory::Pages(pages), bytes });
        }
        let count = bytes.div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count)?;
        lines.resize(count, Line::zeroed());
        Ok(Self { memory: Memory::Heap(lines), bytes })
    }

    /// The elements.
    pub fn of<T: Pod>(&self) -> &[T] {
        let bytes: &[u8] = match &self.memory {
            Memory::Heap(lines) => bytemuck::cast_slice(lines),
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages.bytes(),
        };
        bytemuck::cast_slice(&bytes[..self.bytes])
    }

    /// The elements, to be written.
    pub fn of_mut<T: Pod>(&mut self) -> &mut [T] {
        let bytes: &mut [u8] = match &mut self.memory {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages.bytes_mut(),
        };
        bytemuck::cast_slice_mut(&mut bytes[..self.bytes])
    }
}

#[cfg(target_os = "linux")]
mod pages {
    use memmap2::{Advice, MmapMut};

    /// Memory from a huge page's begin on, of which the system is asked to make huge pages.
    pub(super) struct Pages {
        map: MmapMut,
        begin: usize,
    }

    impl Pages {
        /// `None` for less than a huge page, and when the system has no room.
        pub(super) fn zeroed(bytes: usize) -> Option<Self> {
            if bytes < HUGE_PAGE {
                return None;
            }
            // The system puts a map where it likes. What is in front of `begin` and behind the bytes is never touched, so
            // it takes no memory.
            let huge = in_huge_pages(bytes)?;
            let mut map = MmapMut::map_anon(huge.checked_add(HUGE_PAGE)?).ok()?;
            let begin = map.as_ptr().align_offset(HUGE_PAGE);
            // Without huge pages the memory is as good, only slower.
            let _ = map.advise_range(Advice::HugePage, begin, huge);
            map[begin..begin + bytes].iter_mut().step_by(SMALLEST_PAGE).for_each(|byte| *byte = 0);
            Some(Self { map, begin })
        }

        pub(super) fn bytes(&self) -> &[u8] {
            &self.map[self.begin..]
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.map[self.begin..]
        }
    }

    /// What is to be in huge pages: a last one that is filled for more than half of it, too. So a model's blocks, of some
    /// megabytes each, are read fast to the end, and none takes more than half a huge page in vain.
    pub(super) fn in_huge_pages(bytes: usize) -> Option<usize> {
        let whole = bytes.checked_next_multiple_of(HUGE_PAGE)?;
        Some(if whole - bytes < HUGE_PAGE / 2 { whole } else { bytes })
    }

    /// Bytes of a huge page on x86-64, and on aarch64 with small pages of 4 KiB. Where it is another number, the system
    /// makes of the memory what it can.
    pub(super) const HUGE_PAGE: usize = 2 << 20;

    /// Bytes of a page at least.
    const SMALLEST_PAGE: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_begins_at_a_line_and_keeps_what_is_written() {
        for len in [0, 1, 100, (3 << 20) + 17] {
            let mut lines = Lines::zeroed::<u32>(len).expect("memory");
            assert!(lines.of::<u32>().len() == len && lines.of::<u32>().iter().all(|value| *value == 0));
            assert!(lines.of::<u8>().as_ptr().cast::<Line>().is_aligned());
            lines.of_mut::<u32>().fill(7);
            assert!(lines.of::<u32>().iter().all(|value| *value == 7));
        }
        assert!(Lines::zeroed::<u32>(usize::MAX / 2).is_none() && Lines::zeroed::<u8>(isize::MAX as usize).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn large_memory_begins_at_a_huge_page() {
        let lines = Lines::zeroed::<u8>(2 * pages::HUGE_PAGE + 1).expect("memory");
        assert_eq!(lines.of::<u8>().as_ptr().align_offset(pages::HUGE_PAGE), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_last_huge_page_is_taken_when_most_of_it_is_used() {
        let (page, half) = (pages::HUGE_PAGE, pages::HUGE_PAGE / 2);
        for (bytes, want) in [(page, page), (3 * page + half + 1, 4 * page), (3 * page + half, 3 * page + half)] {
            assert_eq!(pages::in_huge_pages(bytes), Some(want));
        }
        assert_eq!(pages::in_huge_pages(usize::MAX), None);
    }
}
