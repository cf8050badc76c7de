//! What names a kernel, and which were launched last.

use std::cell::RefCell;
use std::ffi::CStr;

/// A kernel as it stands in kernels/: its file's family and its name.
pub struct Kernel {
    pub family: &'static str,
    pub name: &'static CStr,
}

thread_local! {
    static LAST: RefCell<[Option<&'static CStr>; 4]> = const { RefCell::new([None; 4]) };
}

impl Kernel {
    /// Notes that this thread launches it now.
    pub(super) fn remember(&self) {
        LAST.with_borrow_mut(|last| {
            last.rotate_right(1);
            last[0] = Some(self.name);
        });
    }
}

/// The last kernels that this thread launched, latest first.
pub(super) fn last_kernels() -> String {
    let names: Vec<_> = LAST.with_borrow(|last| last.iter().flatten().map(|n| n.to_string_lossy()).collect());
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}
