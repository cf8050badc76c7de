//! CUDA as this machine has it. The driver is loaded at run time; every call first asks whether it is there.

use std::ffi::c_int;
use std::fmt;
use std::path::PathBuf;

use cudarc::driver::{result, sys};
use cudarc::nvrtc;

use super::toolkit;
use crate::error::{Error, Result};

/// What a question about CUDA found.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The CUDA version that the driver supports; none without a driver.
    pub driver: Option<Version>,
    /// The run-time compiler's version; none without it.
    pub nvrtc: Option<Version>,
    /// Its file.
    pub nvrtc_file: Option<PathBuf>,
    /// Name and bytes of memory of each device.
    pub devices: Vec<(String, usize)>,
    /// What the driver said where it is there and does not work.
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: i32,
    pub minor: i32,
}

/// Looks for driver, compiler and devices; never fails.
pub fn probe() -> Probe {
    let driver = driver_version();
    let nvrtc_file = toolkit::find(driver.map(|d| d.major)).file.clone();
    let nvrtc = nvrtc_file.as_ref().and_then(|_| nvrtc_version());
    let mut probe = Probe { driver, nvrtc, nvrtc_file, devices: Vec::new(), trouble: None };
    if probe.driver.is_some() {
        match devices() {
            Ok(devices) => probe.devices = devices,
            Err(error) => probe.trouble = Some(error.to_string()),
        }
    }
    probe
}

fn driver_version() -> Option<Version> {
    let mut version: c_int = 0;
    // SAFETY: the library is asked for first, and the call writes one number.
    let found = unsafe { sys::is_culib_present() && sys::cuDriverGetVersion(&mut version).result().is_ok() };
    found.then_some(Version { major: version / 1000, minor: version % 1000 / 10 })
}

fn nvrtc_version() -> Option<Version> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the library is asked for first, and the call writes two numbers.
    let found = unsafe {
        nvrtc::sys::is_culib_present() && nvrtc::sys::nvrtcVersion(&mut major, &mut minor).result().is_ok()
    };
    found.then_some(Version { major, minor })
}

fn devices() -> std::result::Result<Vec<(String, usize)>, result::DriverError> {
    result::init()?;
    let describe = |ordinal| {
        let device = result::device::get(ordinal)?;
        // SAFETY: the device was just given by the driver.
        let bytes = unsafe { result::device::total_mem(device)? };
        Ok((result::device::get_name(device)?, bytes))
    };
    (0..result::device::get_count()?).map(describe).collect()
}

impl Probe {
    /// The compiler for a device that can be opened, or what is missing and what to do.
    pub(super) fn usable(&self, ordinal: usize) -> Result<Version> {
        let device = format!("cuda:{ordinal}");
        let none = |why: String| Err(Error::NoDevice { device: device.clone(), why });
        let Some(driver) = self.driver else {
            let why =
                "no CUDA driver: libcuda.so was not found; install NVIDIA's driver, or use --device cpu";
            return none(why.to_string());
        };
        if let Some(trouble) = &self.trouble {
            return none(format!("the driver does not work: {trouble}"));
        }
        if ordinal >= self.devices.len() {
            let there = match self.devices.len() {
                0 => "this machine has none".to_string(),
                n => format!("this machine has cuda:0 to cuda:{}", n - 1),
            };
            return none(format!("there is no {device}: {there}"));
        }
        let compiler = self.compiler()?;
        if compiler.major > driver.major {
            let why = format!(
                "NVRTC {compiler} is newer than the driver, which supports CUDA {driver}: update the driver, or install \
                 NVRTC {} (python3 -m pip install 'nvidia-cuda-nvrtc-cu{0}')",
                driver.major
            );
            return Err(Error::Unsupported { device, why });
        }
        Ok(compiler)
    }

    /// NVRTC's version, or where it was looked for and how to get it.
    pub(super) fn compiler(&self) -> Result<Version> {
        let places = || toolkit::find(self.driver.map(|d| d.major)).places.clone();
        self.nvrtc.ok_or_else(|| Error::NoCompiler { places: places() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(driver) = self.driver else { return write!(f, "no driver") };
        write!(f, "driver for CUDA {driver}")?;
        match self.nvrtc {
            Some(version) => {
                let file = self.nvrtc_file.as_deref().unwrap_or(std::path::Path::new("?"));
                write!(f, ", NVRTC {version} ({})", file.display())?;
            }
            None => write!(f, ", no NVRTC")?,
        }
        if let Some(trouble) = &self.trouble {
            write!(f, ", which does not work: {trouble}")?;
        }
        for (i, (name, bytes)) in self.devices.iter().enumerate() {
            write!(f, "; cuda:{i} {name}, {:.1} GiB", *bytes as f64 / (1u64 << 30) as f64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_never_panics_and_says_something() {
        assert!(!probe().to_string().is_empty());
    }
}
