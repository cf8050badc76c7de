//! Libraries that are found while the program runs.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_LAZY: c_int = 1;

/// A library that stays loaded as long as the process lives.
#[derive(Clone, Copy)]
pub struct Library(NonNull<c_void>);

/// Loads a library by its path, or by a name that the loader looks for. Whoever opens it by the name it calls itself
/// (its SONAME) gets this one.
///
/// # Safety
/// The library's initializers are sound.
pub unsafe fn open(path: &Path) -> Option<Library> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the text ends with a NUL; the caller answers for the library.
    NonNull::new(unsafe { dlopen(path.as_ptr(), RTLD_LAZY) }).map(Library)
}

/// The address of what the library calls so.
pub fn symbol(library: Library, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the library is never unloaded, the name ends with a NUL.
    NonNull::new(unsafe { dlsym(library.0.as_ptr(), name.as_ptr()) })
}
