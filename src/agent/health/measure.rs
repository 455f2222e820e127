//! The host's measures, in integers.
//!
//! Runnable tasks are counted now, not by the load average, which still speaks of the job that has just ended.
//!
//! Invariants
//! * No floating point: decimals of the kernel are read as digits.
//!
//! Never here: what is too little or too much.

use std::fs;
use std::io;
use std::path::Path;

use remuda_wire::v1::Measures;

/// Measures the host, and the filesystem that `folder` is on.
pub fn measure(folder: &Path) -> io::Result<Measures> {
    let disk = rustix::fs::statvfs(folder)?;
    let (runnable, cpus) = runnable(&fs::read_to_string("/proc/stat")?).ok_or_else(|| unreadable("/proc/stat"))?;
    let memory = available(&fs::read_to_string("/proc/meminfo")?).ok_or_else(|| unreadable("/proc/meminfo"))?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().and_then(|load| decimal(load, 3)).ok_or_else(|| unreadable("/proc/loadavg"))?;
    Ok(Measures {
        disk_free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        disk_free_permille: permille(disk.f_bavail, disk.f_blocks),
        inodes_free_permille: permille(disk.f_favail, disk.f_files),
        memory_available_bytes: memory,
        // This thread is one of them.
        runnable_per_cpu_permille: small(runnable.saturating_sub(1) * 1000 / cpus),
        cpu_pressure_centipercent: pressure("cpu"),
        memory_pressure_centipercent: pressure("memory"),
        io_pressure_centipercent: pressure("io"),
        load1_permille: small(load),
    })
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{file} is not as expected"))
}

/// `part` of `whole` in thousandths; all of it where there is nothing to count.
fn permille(part: u64, whole: u64) -> u32 {
    match whole {
        0 => 1000,
        whole => small((u128::from(part) * 1000 / u128::from(whole)).try_into().unwrap_or(u64::MAX)),
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Runnable tasks, and CPUs, of /proc/stat.
fn runnable(stat: &str) -> Option<(u64, u64)> {
    let running = stat.lines().find_map(|line| line.strip_prefix("procs_running "))?.trim().parse().ok()?;
    let is_cpu =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let cpus = stat.lines().filter(is_cpu).count() as u64;
    Some((running, cpus.max(1)))
}

/// MemAvailable of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// "some avg10" in units of 0.01 %; none where the kernel has none.
fn pressure(what: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/pressure/{what}")).ok()?;
    some_avg10(&text)
}

fn some_avg10(text: &str) -> Option<u32> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
    decimal(value, 2).map(small)
}

/// `12.34` with that many digits after the point, as an integer.
fn decimal(text: &str, digits: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(digits).collect();
    format!("{whole}{fraction}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let measures = measure(folder.path()).unwrap();
        assert!(measures.disk_free_bytes > 0 && measures.memory_available_bytes > 0);
        assert!(measures.disk_free_permille <= 1000 && measures.inodes_free_permille <= 1000);
        assert_eq!(measures.cpu_pressure_centipercent.is_some(), Path::new("/proc/pressure/cpu").exists());
        assert!(measure(&folder.path().join("none")).is_err());
    }

    #[test]
    fn the_kernels_files_are_read_as_written() {
        assert_eq!(runnable("cpu  1 2\ncpu0 1\ncpu1 1\nintr 9\nprocs_running 5\n"), Some((5, 2)));
        assert_eq!(available("MemFree: 1 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(some_avg10("some avg10=12.34 avg60=1.00\nfull avg10=0.00"), Some(1234));
        assert_eq!((decimal("0.5", 3), decimal("7", 2), decimal("x", 2)), (Some(500), Some(700), None));
        assert_eq!((permille(0, 0), permille(1, 3), permille(u64::MAX, u64::MAX)), (1000, 333, 1000));
    }
}
