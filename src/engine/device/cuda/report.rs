//! What the compiler made of every kernel: registers, memory, spills, matrix instructions.
//!
//! NVRTC suffices, no device is asked. Registers and memory stand in the assembler's log, the largest block and the
//! instructions in the machine code, which is an ELF file.

use cudarc::driver::result;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::launch::k::KERNELS;
use super::modules::{Built, Job, build_all};
use super::nvrtc::{Arch, families, supported};
use super::probe::{Version, probe};
use crate::engine::device::DType;
use crate::error::{Error, Result};

/// One kernel as it was compiled for one architecture and one kind of storage.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    pub file: String,
    pub kernel: String,
    /// `f32` or `bf16`.
    pub storage: &'static str,
    pub arch: String,
    /// Of each thread.
    pub registers: u32,
    /// Bytes of a block that the kernel declares itself; a launch may add dynamic ones.
    pub shared: u32,
    /// Bytes of each thread in local memory.
    pub stack: u32,
    /// Bytes that each thread stores and loads because registers ran out.
    pub spills: u32,
    /// The largest block that the kernel may be launched with.
    pub threads: u32,
    /// Share of a multiprocessor's warps that such blocks fill, without dynamic shared memory; none where the
    /// architecture's limits are not known.
    pub occupancy: Option<f32>,
    /// Matrix instructions (HMMA).
    pub matrix: u32,
}

/// All that one call compiled or found in the cache.
pub struct Compilation {
    pub compiler: Version,
    /// One for each kernel in machine code; none for PTX.
    pub reports: Vec<Report>,
    /// Files that were compiled, and that the cache held.
    pub compiled: usize,
    pub cached: usize,
}

/// NVRTC's version, or where to get it.
pub fn compiler() -> Result<Version> {
    probe().compiler()
}

/// The architecture of the first device; none without a driver or a device.
pub fn device_arch() -> Option<Arch> {
    probe().devices.first()?;
    // SAFETY: the probe asked for the driver, initialized it and saw this device.
    let ask =
        |attribute| unsafe { result::device::get_attribute(result::device::get(0).ok()?, attribute).ok() };
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Some(Arch::of((major * 10 + minor) as u32))
}

/// Compiles every file of which the family or a kernel contains `filter`, on all cores, into the cache.
pub fn compile(archs: &[Arch], storages: &[DType], filter: &str) -> Result<Compilation> {
    let compiler = compiler()?;
    let known = supported();
    for arch in archs {
        let (Arch::Machine { capability, .. } | Arch::Ptx { capability }) = arch;
        if !known.contains(capability) {
            let known: Vec<String> = known.iter().map(|c| format!("sm_{c}")).collect();
            let why = format!("is not known to NVRTC {compiler}, only {}", known.join(" "));
            return Err(Error::Unsupported { device: arch.to_string(), why });
        }
    }
    let wanted = |family: &str, kernel: &str| family.contains(filter) || kernel.contains(filter);
    let named = |family: &str| {
        let mut kernels = KERNELS.iter().filter(|k| k.family == family);
        family.contains(filter) || kernels.any(|k| k.name.to_string_lossy().contains(filter))
    };
    let mut jobs: Vec<Job> = Vec::new();
    for &arch in archs {
        for family in families().filter(|family| named(family)) {
            jobs.extend(storages.iter().map(|&dtype| (family, arch, dtype)));
        }
    }
    let built = build_all(&jobs, compiler)?;
    let cached = built.iter().filter(|b| b.cached).count();
    let mut reports = Vec::new();
    for (job, built) in
        jobs.iter().zip(&built).filter(|((_, arch, _), _)| matches!(arch, Arch::Machine { .. }))
    {
        let all = read(job, built)?;
        reports.extend(all.into_iter().filter(|r| wanted(job.0, &r.kernel)));
    }
    Ok(Compilation { compiler, reports, compiled: built.len() - cached, cached })
}

/// The kernels of one compiled file, by name.
fn read(job: &Job, built: &Built) -> Result<Vec<Report>> {
    let (family, arch, dtype) = job;
    let Arch::Machine { capability, .. } = *arch else { return Ok(Vec::new()) };
    let strange = |what: &str| Error::Compile {
        file: format!("{family}.cu"),
        arch: arch.to_string(),
        log: what.to_string(),
    };
    let logged = Logged::all(&built.log);
    let declared = KERNELS.iter().filter(|k| k.family == *family).map(|k| k.name.to_string_lossy());
    for name in declared {
        if !logged.iter().any(|l| l.kernel == name) {
            return Err(strange(&format!("the compiler's log does not name {name}")));
        }
    }
    let elf = Elf::of(&built.code)
        .ok_or_else(|| strange("the machine code is not the ELF file that was expected"))?;
    let mut reports = Vec::new();
    for l in logged {
        let code = elf
            .section(&format!(".text.{}", l.kernel))
            .ok_or_else(|| strange(&format!("no code of {}", l.kernel)))?;
        let threads = elf.section(&format!(".nv.info.{}", l.kernel)).and_then(largest_block).unwrap_or(1024);
        reports.push(Report {
            file: format!("{family}.cu"),
            storage: dtype.name(),
            arch: arch.to_string(),
            registers: l.registers,
            shared: l.shared,
            stack: l.stack,
            spills: l.spills,
            threads,
            occupancy: occupancy(capability, threads, l.registers, l.shared),
            matrix: matrix_instructions(code),
            kernel: l.kernel,
        });
    }
    reports.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    Ok(reports)
}

/// What `--ptxas-options=-v` says of one kernel.
#[derive(Debug, Default, PartialEq)]
struct Logged {
    kernel: String,
    registers: u32,
    shared: u32,
    stack: u32,
    spills: u32,
}

impl Logged {
    fn all(log: &str) -> Vec<Logged> {
        let mut found: Vec<Logged> = Vec::new();
        // Properties of functions that were not inlined stand between those of the kernels.
        let mut of_kernel = false;
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                let kernel = rest.split('\'').next().unwrap_or("").to_string();
                found.push(Logged { kernel, ..Logged::default() });
            }
            let Some(last) = found.last_mut() else { continue };
            if let Some((_, name)) = line.split_once("Function properties for ") {
                of_kernel = name.trim() == last.kernel;
            }
            if line.contains("bytes stack frame") && of_kernel {
                last.stack = before(line, "bytes stack frame");
                last.spills = before(line, "bytes spill stores") + before(line, "bytes spill loads");
            }
            if line.contains("Used ") && line.contains(" registers") {
                last.registers = before(line, "registers");
                last.shared = before(line, "bytes smem");
            }
        }
        found
    }
}

/// The number before a unit; 0 where the unit is not named.
fn before(line: &str, unit: &str) -> u32 {
    let number = line.split(unit).next().filter(|head| head.len() < line.len());
    number.and_then(|head| head.split_whitespace().next_back()?.parse().ok()).unwrap_or(0)
}

/// What bounds the blocks that a multiprocessor runs at once.
struct Limits {
    warps: u32,
    blocks: u32,
    shared: u32,
}

const REGISTERS: u32 = 64 << 10;
const WARP: u32 = 32;
/// Registers are given to warps in these portions, and warps in fours.
const REGISTER_PORTION: u32 = 256;
const WARP_PORTION: u32 = 4;
/// Shared memory is given to blocks in these portions; the system takes one KiB of each block since sm_80.
const SHARED_PORTION: u32 = 128;
const SYSTEM_SHARED: u32 = 1 << 10;

/// CUDA C++ Programming Guide, technical specifications per compute capability.
fn limits(capability: u32) -> Option<Limits> {
    let (warps, blocks, shared) = match capability {
        75 => (32, 16, 64),
        80 => (64, 32, 164),
        86 => (48, 16, 100),
        87 => (48, 16, 164),
        89 => (48, 24, 100),
        90 | 100 | 103 => (64, 32, 228),
        120 => (48, 24, 100),
        _ => return None,
    };
    Some(Limits { warps, blocks, shared: shared << 10 })
}

fn occupancy(capability: u32, threads: u32, registers: u32, shared: u32) -> Option<f32> {
    let limits = limits(capability)?;
    let block = threads.div_ceil(WARP).max(1);
    let warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_PORTION);
    let by_registers = REGISTERS / warp / WARP_PORTION * WARP_PORTION / block;
    let system = if capability >= 80 { SYSTEM_SHARED } else { 0 };
    let by_shared =
        limits.shared.checked_div((shared + system).next_multiple_of(SHARED_PORTION)).unwrap_or(u32::MAX);
    let blocks = limits.blocks.min(limits.warps / block).min(by_registers).min(by_shared);
    Some((blocks * block) as f32 / limits.warps as f32)
}

/// An instruction is 16 bytes long since sm_70, and its first twelve bits say what it does.
const INSTRUCTION: usize = 16;
const OPCODE: u64 = 0xfff;
/// HMMA of sm_80 to sm_90, with bf16 and with TF32 factors: tests/compile.rs compiles one of each to hold this.
const HMMA: u64 = 0x23c;

fn matrix_instructions(code: &[u8]) -> u32 {
    let opcode = |i: &[u8]| u64::from_le_bytes(i[..8].try_into().expect("eight bytes")) & OPCODE;
    code.chunks_exact(INSTRUCTION).filter(|i| opcode(i) == HMMA).count() as u32
}

/// The attribute in `.nv.info.<kernel>` that `__launch_bounds__` leaves: three extents.
const MAX_THREADS: u8 = 0x05;
/// Attributes are (form, attribute, value of 16 bits); in this form the value counts bytes that follow.
const WITH_BYTES: u8 = 0x04;

fn largest_block(mut info: &[u8]) -> Option<u32> {
    while let [form, attribute, low, high, rest @ ..] = info {
        let bytes = if *form == WITH_BYTES { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        let (value, after) = rest.split_at_checked(bytes)?;
        if *attribute == MAX_THREADS && *form == WITH_BYTES {
            return (0..3).map(|i| number::<4>(value, 4 * i)).product::<Option<u64>>().map(|n| n as u32);
        }
        info = after;
    }
    None
}

/// The sections of a 64-bit little-endian ELF file.
struct Elf<'a> {
    file: &'a [u8],
    /// Where the section headers begin, and how many there are.
    headers: usize,
    count: usize,
    names: &'a [u8],
}

impl<'a> Elf<'a> {
    fn of(file: &'a [u8]) -> Option<Elf<'a>> {
        if !file.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (headers, count) = (number::<8>(file, 0x28)? as usize, number::<2>(file, 0x3c)? as usize);
        let mut elf = Elf { file, headers, count, names: &[] };
        elf.names = elf.contents(number::<2>(file, 0x3e)? as usize)?;
        Some(elf)
    }

    /// The N bytes at an offset of a section's header, which is 64 bytes long.
    fn field<const N: usize>(&self, section: usize, offset: usize) -> Option<usize> {
        let header = self.file.get(self.headers..)?.get(64 * section..)?;
        number::<N>(header, offset).map(|n| n as usize)
    }

    fn contents(&self, section: usize) -> Option<&'a [u8]> {
        let (from, len) = (self.field::<8>(section, 0x18)?, self.field::<8>(section, 0x20)?);
        self.file.get(from..from.checked_add(len)?)
    }

    fn section(&self, name: &str) -> Option<&'a [u8]> {
        let named = |section: &usize| {
            let at = self.field::<4>(*section, 0).unwrap_or(usize::MAX);
            let rest = self.names.get(at..).unwrap_or_default();
            rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        };
        self.contents((0..self.count).find(named)?)
    }
}

/// A little-endian number of N bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(N)?)?;
    Some(part.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_log_is_read() {
        let log = "ptxas info    : 8 bytes gmem\n\
                   ptxas info    : Compiling entry function 'a_fwd' for 'sm_80'\n\
                   ptxas info    : Function properties for a_fwd\n\
                   ptxas         .     16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n\
                   ptxas info    : Function properties for slow_path\n\
                   ptxas         .     40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 126 registers, used 1 barriers, 1024 bytes smem, 496 bytes cmem[0]\n\
                   ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
                   ptxas info    : Function properties for b\n\
                   ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 14 registers, used 0 barriers, 368 bytes cmem[0]\n";
        let a = Logged { kernel: "a_fwd".into(), registers: 126, shared: 1024, stack: 16, spills: 32 };
        let b = Logged { kernel: "b".into(), registers: 14, ..Logged::default() };
        assert_eq!(Logged::all(log), [a, b]);
    }

    /// As the occupancy calculator of CUDA's toolkit has it.
    #[test]
    fn occupancy_is_bound_by_warps_registers_shared_memory_and_blocks() {
        let of = |capability, threads, registers, shared| {
            occupancy(capability, threads, registers, shared).unwrap()
        };
        assert_eq!(of(80, 256, 32, 0), 1.0);
        assert_eq!(of(80, 256, 33, 0), 0.75);
        assert_eq!(of(80, 256, 128, 0), 0.25);
        assert_eq!(of(80, 128, 255, 0), 0.125);
        assert_eq!(of(86, 256, 32, 0), 1.0);
        assert_eq!(of(75, 1024, 64, 0), 1.0);
        assert_eq!(of(80, 32, 16, 0), 0.5);
        assert_eq!(of(90, 256, 32, 48 << 10), 0.5);
        assert_eq!(occupancy(61, 256, 32, 0), None);
    }

    #[test]
    fn damaged_machine_code_is_nothing_and_no_panic() {
        assert!(Elf::of(b"").is_none() && Elf::of(b"\x7fELF\x02\x01").is_none());
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x28..0x30].fill(0xff);
        assert!(Elf::of(&file).is_none());
        assert_eq!(largest_block(&[4, 5, 200, 0, 1]), None);
        assert_eq!(
            largest_block(&[1, 0x35, 0, 0, 4, 5, 12, 0, 64, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]),
            Some(128)
        );
    }
}
