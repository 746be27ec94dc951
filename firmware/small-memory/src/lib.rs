//! `memcpy`, `memmove` and `memset`, and the names that Arm's ABI has for them, a word or a byte at a time: the compiler's own are
//! unrolled and take 3 KB of flash. Linked by being a dependency (`use small_memory as _;`).
//!
//! Every access is volatile, and no function calls another by a name that compilers know: else they would recognise the loops, or
//! the calls, as what these functions implement, and call it.
#![no_std]

/// Copies `count` bytes from the front on.
///
/// # Safety
/// `count` bytes are at both places, and `to` lies before `from` or beside it.
#[inline(never)]
unsafe fn forwards(to: *mut u8, from: *const u8, count: usize) {
    let words = if (to.addr() | from.addr()).is_multiple_of(4) { count / 4 } else { 0 };
    for at in 0..words {
        // SAFETY: the caller's promise; both places begin at whole words.
        unsafe { to.cast::<u32>().add(at).write_volatile(from.cast::<u32>().add(at).read_volatile()) }
    }
    for at in 4 * words..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) }
    }
}

/// Copies `count` bytes that may overlap.
///
/// # Safety
/// `count` bytes are at both places.
#[inline(never)]
unsafe fn either_way(to: *mut u8, from: *const u8, count: usize) {
    if to.addr() <= from.addr() {
        // SAFETY: what is overwritten was read before.
        return unsafe { forwards(to, from, count) };
    }
    for at in (0..count).rev() {
        // SAFETY: the caller's promise; backwards, what is overwritten was read before.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) }
    }
}

/// Sets `count` bytes.
///
/// # Safety
/// `count` bytes are there.
#[inline(never)]
unsafe fn fill(to: *mut u8, value: i32, count: usize) {
    let words = if to.addr().is_multiple_of(4) { count / 4 } else { 0 };
    let word = u32::from_ne_bytes([value as u8; 4]);
    for at in 0..words {
        // SAFETY: the caller's promise; the place begins at a whole word.
        unsafe { to.cast::<u32>().add(at).write_volatile(word) }
    }
    for at in 4 * words..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write_volatile(value as u8) }
    }
}

/// Functions that copy, by the names of C and of Arm's ABI. The latter's give nothing, so that what they give does not matter.
macro_rules! copy {
    ($($name:ident = $how:ident;)*) => {$(
        /// # Safety
        /// As C has it.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
            // SAFETY: the caller's promise.
            unsafe { $how(to, from, count) };
            to
        }
    )*};
}

copy! {
    memcpy = forwards;
    __aeabi_memcpy = forwards;
    __aeabi_memcpy4 = forwards;
    __aeabi_memcpy8 = forwards;
    memmove = either_way;
    __aeabi_memmove = either_way;
    __aeabi_memmove4 = either_way;
    __aeabi_memmove8 = either_way;
}

/// # Safety
/// As C has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { fill(to, value, count) };
    to
}

/// Functions of Arm's ABI that set memory; its order of arguments is another than C's.
macro_rules! set {
    ($($name:ident)*) => {$(
        /// # Safety
        /// As Arm's ABI has it.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(to: *mut u8, count: usize, value: i32) {
            // SAFETY: the caller's promise.
            unsafe { fill(to, value, count) }
        }
    )*};
}

/// Functions of Arm's ABI that clear memory.
macro_rules! clear {
    ($($name:ident)*) => {$(
        /// # Safety
        /// As Arm's ABI has it.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(to: *mut u8, count: usize) {
            // SAFETY: the caller's promise.
            unsafe { fill(to, 0, count) }
        }
    )*};
}

set!(__aeabi_memset __aeabi_memset4 __aeabi_memset8);
clear!(__aeabi_memclr __aeabi_memclr4 __aeabi_memclr8);
