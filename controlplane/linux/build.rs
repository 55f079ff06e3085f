//! Compiles the BPF program with clang; the object is embedded by `adopt.rs`.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let source = "src/bpf/adopt.bpf.c";
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = out.join("adopt.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN").unwrap_or_default();
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };

    let mut command = Command::new(&clang);
    command.args(["-target", target, "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Debian keeps <asm/types.h> below the multiarch directory, which clang does not search for
    // the bpf target.
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));
    command.args(["-c", source, "-o"]).arg(&object);
    match command.output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => panic!(
            "{clang} could not compile {source}; if a header is missing, install the Debian \
             packages libbpf-dev and linux-libc-dev:\n{}",
            String::from_utf8_lossy(&done.stderr)
        ),
        Err(error) => panic!(
            "cannot run {clang} ({error}), which compiles {source}: install the Debian package \
             clang (and libbpf-dev), or set CLANG to the compiler's path"
        ),
    }
}
