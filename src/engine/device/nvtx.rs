//! Named ranges for Nsight Systems and Nsight Compute: the application's half of NVTX 3, without its headers.
//!
//! A tool names its library in `NVTX_INJECTION64_PATH`. That is loaded and given tables of slots, as nvtxTypes.h and
//! nvtxImpl.h of github.com/NVIDIA/NVTX lay them out; it puts its functions into the slots it cares for. Without the
//! variable a range costs one load.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::library::{open, symbol};
use crate::error::note;

type PushA = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;
type GetExportTable = extern "C" fn(u32) -> *const c_void;
type Initialize = unsafe extern "C" fn(GetExportTable) -> c_int;

/// Functions of each `NvtxCallbackModule` (invalid, core, CUDA, OpenCL, CUDA runtime, core 2, sync), the invalid one
/// included.
const FUNCTIONS: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const CORE: usize = 1;
/// Of `NvtxCallbackIdCore`.
const RANGE_PUSH_A: usize = 9;
const RANGE_POP: usize = 11;
/// Of `NvtxExportTableID`.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;

/// `NvtxExportTableCallbacks`
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    get_module_function_table: extern "C" fn(c_int, *mut *const Slot, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

static EXPORTED_CALLBACKS: Callbacks =
    Callbacks { struct_size: size_of::<Callbacks>(), get_module_function_table: function_table };
static EXPORTED_VERSION: VersionInfo = VersionInfo {
    struct_size: size_of::<VersionInfo>(),
    version: 3,
    reserved: 0,
    set_injection_version: any_version,
};

/// Where a tool finds the place of a function pointer; null for the invalid function and after the last.
#[repr(transparent)]
struct Slot(*const AtomicPtr<c_void>);

// SAFETY: it points to an atomic that is never freed.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Send for Slot {}

/// The slots of every module, made once.
fn tables() -> &'static [Vec<Slot>] {
    static TABLES: OnceLock<Vec<Vec<Slot>>> = OnceLock::new();
    let slot = |function| match function {
        0 => Slot(null()),
        _ => Slot(Box::leak(Box::new(AtomicPtr::new(null_mut())))),
    };
    let table = |&count: &usize| (0..count).map(slot).chain([Slot(null())]).collect();
    TABLES.get_or_init(|| FUNCTIONS.iter().map(table).collect())
}

extern "C" fn function_table(module: c_int, table: *mut *const Slot, size: *mut c_uint) -> c_int {
    let module = module as usize;
    if module == 0 || module >= FUNCTIONS.len() {
        return 0;
    }
    // SAFETY: the tool's pointers are null or may be written.
    unsafe {
        if !size.is_null() {
            *size = FUNCTIONS[module] as c_uint;
        }
        if !table.is_null() {
            *table = tables()[module].as_ptr();
        }
    }
    1
}

extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        CALLBACKS => std::ptr::from_ref(&EXPORTED_CALLBACKS).cast(),
        VERSION_INFO => std::ptr::from_ref(&EXPORTED_VERSION).cast(),
        _ => null(),
    }
}

extern "C" fn any_version(_: u32) {}

/// The functions of a tool that wants ranges.
struct Tool {
    push: PushA,
    pop: Pop,
}

impl Tool {
    /// The tool that the environment names; said once where it cannot be had.
    fn find() -> Option<Tool> {
        let path = std::env::var_os("NVTX_INJECTION64_PATH").filter(|path| !path.is_empty())?;
        let path = Path::new(&path);
        Tool::load(path).unwrap_or_else(|why| {
            let path = path.display();
            note(format_args!("note: no ranges for the profiler: NVTX_INJECTION64_PATH={path}: {why}"));
            None
        })
    }

    fn load(path: &Path) -> Result<Option<Tool>, &'static str> {
        // SAFETY: as NVTX's own header does it; the user asked for this library, which is never unloaded.
        unsafe {
            let library = open(path).ok_or("the library cannot be loaded")?;
            let entry = symbol(library, c"InitializeInjectionNvtx2");
            let entry = entry.ok_or("the library has no InitializeInjectionNvtx2")?;
            let initialize = std::mem::transmute::<*mut c_void, Initialize>(entry.as_ptr());
            if initialize(export_table) == 0 {
                return Err("the library refused to begin");
            }
            let function = |id: usize| (*tables()[CORE][id].0).load(Ordering::Acquire);
            let (push, pop) = (function(RANGE_PUSH_A), function(RANGE_POP));
            if push.is_null() || pop.is_null() {
                return Ok(None);
            }
            Ok(Some(Tool {
                push: std::mem::transmute::<*mut c_void, PushA>(push),
                pop: std::mem::transmute::<*mut c_void, Pop>(pop),
            }))
        }
    }
}

fn tool() -> Option<&'static Tool> {
    static TOOL: OnceLock<Option<Tool>> = OnceLock::new();
    TOOL.get_or_init(Tool::find).as_ref()
}

/// Opens a range on this thread.
pub fn push(name: &str) {
    if let Some(tool) = tool() {
        let name = CString::new(name).unwrap_or_default();
        tool.push(&name);
    }
}

/// Closes the range that this thread opened last.
pub fn pop() {
    if let Some(tool) = tool() {
        tool.pop();
    }
}

impl Tool {
    fn push(&self, name: &CStr) {
        // SAFETY: the tool's function, which copies the text.
        unsafe { (self.push)(name.as_ptr()) };
    }

    fn pop(&self) {
        // SAFETY: the tool's function.
        unsafe { (self.pop)() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_sizes_and_holes_of_nvtx() {
        for (module, &count) in FUNCTIONS.iter().enumerate() {
            let (mut table, mut size) = (null(), 0);
            let there = function_table(module as c_int, &mut table, &mut size);
            assert_eq!((there, size as usize), (i32::from(module > 0), count));
            if module > 0 {
                let slots = &tables()[module];
                assert_eq!(slots.len(), count + 1);
                assert!(slots[0].0.is_null() && slots[count].0.is_null() && !slots[1].0.is_null());
            }
        }
        assert_eq!(function_table(7, null_mut(), null_mut()), 0);
        assert!(
            export_table(2).is_null()
                && !export_table(CALLBACKS).is_null()
                && !export_table(VERSION_INFO).is_null()
        );
        assert_eq!((size_of::<Callbacks>(), size_of::<VersionInfo>()), (16, 24));
    }
}
