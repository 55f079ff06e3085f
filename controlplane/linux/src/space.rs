//! Room on disks and in huge pages.

use std::{ffi::CString, fs, io, os::unix::ffi::OsStrExt, path::Path};

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Bytes that an unprivileged writer may still use where `path` is.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero bytes are a valid statvfs structure.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, and `stat` is a live structure of the right type.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Huge pages of 2 MiB that the machine is set to have. Those that a process took and that were given
/// up since are not among them: they go when it ends.
pub fn huge_pages() -> io::Result<u64> {
    let count = |name: &str| -> io::Result<u64> {
        let text = fs::read_to_string(format!("{HUGE_PAGES}/{name}"))?;
        text.trim().parse().map_err(io::Error::other)
    };
    // Surplus pages are gone once whoever uses them has ended.
    Ok(count("nr_hugepages")?.saturating_sub(count("surplus_hugepages")?))
}

/// Time of all CPUs and what a hypervisor withheld of it, in ticks since the start.
pub fn cpu_ticks() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> = line
        .into_iter()
        .flat_map(str::split_ascii_whitespace)
        .take(8)
        .map_while(|word| word.parse().ok())
        .collect();
    match ticks[..] {
        [.., stolen] if ticks.len() == 8 => Ok((ticks.iter().sum(), stolen)),
        _ => Err(io::Error::other("/proc/stat has no times of the CPUs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_room_and_time() {
        assert!(free_bytes(Path::new("/")).is_ok());
        assert!(free_bytes(Path::new("/no/such/place")).is_err());
        let (all, stolen) = cpu_ticks().unwrap();
        assert!(all > 0 && stolen <= all);
    }
}
