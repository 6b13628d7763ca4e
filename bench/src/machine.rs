//! The machine that measured: what a page of numbers says of it. Never its name.

use std::path::Path;

/// The machine in words, without its name.
pub(crate) fn machine(folder: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']).to_owned();
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kilobytes: f64 = memory.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    format!(
        "{cores} cores ({model}), {:.0} GB of memory, file system {}, Linux {}",
        kilobytes / 1e6,
        file_system(folder),
        read("/proc/sys/kernel/osrelease").trim().split('-').next().unwrap_or_default()
    )
}

fn file_system(folder: &Path) -> String {
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let best = mounted.filter(|(at, _)| folder.starts_with(at)).max_by_key(|(at, _)| at.len());
    best.map_or("unknown", |(_, kind)| kind).to_owned()
}
