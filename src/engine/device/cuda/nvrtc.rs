//! NVRTC: CUDA C++ to machine code or PTX, in the process.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::str::FromStr;

use cudarc::nvrtc::sys;

use super::launch::k::SOURCES;
use crate::engine::device::DType;
use crate::error::{Error, Result};

/// What code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Machine code: 80, or 90 with the instructions that only this one has (`sm_90a`).
    Machine { capability: u32, specific: bool },
    /// PTX, which the driver compiles further.
    Ptx { capability: u32 },
}

impl Arch {
    /// Machine code for a device.
    pub fn of(capability: u32) -> Arch {
        Arch::Machine { capability, specific: capability == 90 }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Machine { capability, specific } => {
                write!(f, "sm_{capability}{}", if *specific { "a" } else { "" })
            }
            Arch::Ptx { capability } => write!(f, "compute_{capability}"),
        }
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Arch, String> {
        let wrong = || format!("'{text}' is no architecture; write sm_80, sm_90a or compute_80");
        let (kind, number) = text.split_once('_').ok_or_else(wrong)?;
        let (number, specific) = number.strip_suffix('a').map_or((number, false), |n| (n, true));
        let capability = number.parse().map_err(|_| wrong())?;
        match kind {
            "sm" => Ok(Arch::Machine { capability, specific }),
            "compute" if !specific => Ok(Arch::Ptx { capability }),
            _ => Err(wrong()),
        }
    }
}

/// Code, and what the compiler said of it (registers, spills, shared memory).
#[derive(Clone, Debug)]
pub struct Compiled {
    pub code: Vec<u8>,
    pub log: String,
}

/// The text of a kernel file or header, from the binary, or from the folder that `ENGINE_KERNELS` names.
pub fn source(name: &str) -> Result<String> {
    if let Some(folder) = std::env::var_os("ENGINE_KERNELS") {
        let path = std::path::Path::new(&folder).join(name);
        return std::fs::read_to_string(&path).map_err(|e| Error::io(path, e));
    }
    let found = SOURCES.iter().find(|(file, _)| *file == name);
    Ok(found.unwrap_or_else(|| panic!("there is no kernel file {name}")).1.to_string())
}

/// The families of all kernel files.
pub fn families() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().filter_map(|(name, _)| name.strip_suffix(".cu"))
}

/// Bytes of a kernel file, as a measure of how long it takes to compile.
pub fn source_length(family: &str) -> usize {
    let file = SOURCES.iter().find(|(name, _)| name.strip_suffix(".cu") == Some(family));
    file.map_or(0, |(_, text)| text.len())
}

/// Every option that matters to the result.
pub fn options(arch: Arch, dtype: DType) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={arch}"),
        "--std=c++17".to_string(),
        "-default-device".to_string(),
        "-lineinfo".to_string(),
        format!("-DSTORAGE_BF16={}", u32::from(dtype == DType::Bf16)),
    ];
    if matches!(arch, Arch::Machine { .. }) {
        options.push("--ptxas-options=-v".to_string());
    }
    options
}

/// Name and text of the headers that a text includes, and of those that they include: another's change costs nothing.
fn headers(text: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = vec![text.to_string()];
    while let Some(text) = open.pop() {
        for line in text.lines().filter_map(|l| l.trim_start().strip_prefix("#include")) {
            let Some(name) = line.split('"').nth(1) else { continue };
            if found.iter().all(|(other, _)| other != name) {
                let text = source(name)?;
                open.push(text.clone());
                found.push((name.to_string(), text));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// All that goes into a compilation, and so into the key of its cached result.
pub struct Program {
    name: String,
    source: String,
    headers: Vec<(String, String)>,
    options: Vec<String>,
    arch: Arch,
}

impl Program {
    /// The file `family`.cu for one architecture and one kind of storage.
    pub fn new(family: &str, arch: Arch, dtype: DType) -> Result<Program> {
        let name = format!("{family}.cu");
        let source = source(&name)?;
        Ok(Program { headers: headers(&source)?, name, source, options: options(arch, dtype), arch })
    }

    /// What the result depends on, as text.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]);
        [self.name.as_str(), self.source.as_str()]
            .into_iter()
            .chain(headers)
            .chain(self.options.iter().map(String::as_str))
    }

    fn failed(&self, log: String) -> Error {
        let log = format!("NVRTC does not compile it: {log}");
        Error::Compile { file: self.name.clone(), arch: self.arch.to_string(), log }
    }

    pub fn compile(&self) -> Result<Compiled> {
        let (name, source) = (c_string(&self.name), c_string(&self.source));
        let headers: Vec<(CString, CString)> =
            self.headers.iter().map(|(name, text)| (c_string(name), c_string(text))).collect();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let options: Vec<CString> = self.options.iter().map(|o| c_string(o)).collect();
        let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all pointers live until the calls return; the lists are as long as their counts say.
        let created = unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
            .result()
        };
        created.map_err(|e| self.failed(e.to_string()))?;
        let _destroyed = Destroy(program);
        // SAFETY: the program was just created; the sizes are asked for before the texts.
        unsafe {
            let done = sys::nvrtcCompileProgram(program, options.len() as c_int, options.as_ptr()).result();
            let log = text_of(program, sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog);
            if let Err(error) = done {
                return Err(self.failed(format!("{error}\n{}", log.trim())));
            }
            let code = match self.arch {
                Arch::Machine { .. } => bytes_of(program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN),
                Arch::Ptx { .. } => bytes_of(program, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX),
            };
            Ok(Compiled { code, log })
        }
    }
}

struct Destroy(sys::nvrtcProgram);

impl Drop for Destroy {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed once; what the call answers changes nothing.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

type Size = unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult;
type Bytes = unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult;

/// # Safety
/// The program is alive; `size` tells how much `bytes` writes.
unsafe fn bytes_of(program: sys::nvrtcProgram, size: Size, bytes: Bytes) -> Vec<u8> {
    let mut count = 0;
    // SAFETY: as promised by the caller.
    unsafe {
        if size(program, &mut count).result().is_err() {
            return Vec::new();
        }
        let mut data = vec![0u8; count];
        if bytes(program, data.as_mut_ptr().cast()).result().is_err() {
            return Vec::new();
        }
        data
    }
}

/// # Safety
/// As [`bytes_of`].
unsafe fn text_of(program: sys::nvrtcProgram, size: Size, bytes: Bytes) -> String {
    // SAFETY: as promised by the caller.
    let data = unsafe { bytes_of(program, size, bytes) };
    CStr::from_bytes_until_nul(&data).map(|c| c.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The architectures that this NVRTC knows, ascending.
pub fn supported() -> Vec<u32> {
    let mut count: c_int = 0;
    // SAFETY: the count is asked for before the list.
    unsafe {
        if sys::nvrtcGetNumSupportedArchs(&mut count).result().is_err() {
            return Vec::new();
        }
        let mut archs = vec![0 as c_int; count as usize];
        if sys::nvrtcGetSupportedArchs(archs.as_mut_ptr()).result().is_err() {
            return Vec::new();
        }
        archs.into_iter().map(|a| a as u32).collect()
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("kernel files and options hold no NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_written_as_nvidia_writes_them() {
        for text in ["sm_80", "sm_90", "sm_90a", "compute_80"] {
            assert_eq!(text.parse::<Arch>().unwrap().to_string(), text);
        }
        assert_eq!(Arch::of(90).to_string(), "sm_90a");
        assert_eq!(Arch::of(86).to_string(), "sm_86");
        for wrong in ["80", "sm_", "sm_x", "gfx_90", "compute_90a"] {
            assert!(wrong.parse::<Arch>().unwrap_err().contains("no architecture"), "{wrong}");
        }
    }
}
