//! Binds libdpdk: finds it with pkg-config, generates the bindings with bindgen, and compiles the
//! wrappers that bindgen emits for the `static inline` shims of `wrapper.h`.

use std::collections::BTreeSet;
use std::env;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of pkg-config.
const MODULE: &str = "libdpdk";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-changed=../versions.toml");

    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let minimum = minimum_version(&manifest_dir.join("../versions.toml"));

    println!("cargo::rerun-if-env-changed=UNDERSTUDY_DPDK");
    let is_static = match env::var("UNDERSTUDY_DPDK").as_deref() {
        Err(env::VarError::NotPresent) | Ok("shared") => false,
        Ok("static") => true,
        other => panic!("UNDERSTUDY_DPDK is neither `static` nor `shared`: {other:?}"),
    };
    // Emits the link directives of shared libraries too. With those EAL finds the poll-mode drivers
    // in its plugin directory by itself.
    let library = pkg_config::Config::new()
        .atleast_version(&minimum)
        .cargo_metadata(!is_static)
        .probe(MODULE)
        .unwrap_or_else(|error| {
            panic!(
                "DPDK {minimum} or later was not found by pkg-config. On Debian and Ubuntu install \
                 the packages `libdpdk-dev` and `pkg-config`; for a DPDK built from source set \
                 PKG_CONFIG_PATH to the directory that holds libdpdk.pc.\n{error}"
            )
        });
    if is_static {
        link_archives();
    }
    let c_flags = pkg_config(&["--cflags", MODULE]);
    assert_libclang();

    let wrapper = manifest_dir.join("wrapper.h");
    let wrappers_c = out_dir.join("shims.c");
    bindgen::Builder::default()
        .header(wrapper.to_str().expect("the path of the sources is UTF-8"))
        .clang_args(&c_flags)
        .allowlist_function("shim_.*")
        .allowlist_function("rte_eal_(init|cleanup)")
        .allowlist_function("rte_strerror")
        .allowlist_function("rte_dev_(probe|remove)")
        .allowlist_function("rte_thread_(register|unregister)")
        .allowlist_function("rte_(lcore|socket)_id")
        .allowlist_function("rte_get_tsc_hz")
        .allowlist_function("rte_pktmbuf_pool_create")
        .allowlist_function("rte_mempool_(avail|in_use)_count")
        .allowlist_function("rte_eth_dev_(get_port_by_name|get_name_by_port|is_valid_port)")
        .allowlist_function("rte_eth_dev_(adjust_nb_rx_tx_desc|start|stop|close|set_mtu|get_mtu)")
        .allowlist_function("rte_eth_dev_socket_id")
        .allowlist_function("rte_eth_(promiscuous|allmulticast)_enable")
        .allowlist_type("shim_.*")
        // Only pointers to these cross the border: their layout is none of Rust's business.
        .opaque_type("rte_.*")
        .no_copy("rte_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(&wrappers_c)
        .generate_comments(false)
        .layout_tests(false)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .unwrap_or_else(|error| {
            panic!(
                "bindgen could not read the headers of DPDK {}: {error}. If standard headers are \
                 missing, install the Debian packages `libclang-dev` and `libc6-dev`.",
                library.version
            )
        })
        .write_to_file(out_dir.join("bindings.rs"))
        .expect("OUT_DIR is writable");

    let mut shims = cc::Build::new();
    // Always optimised: these run for every burst, in tests too.
    shims.file(&wrappers_c).opt_level(3).warnings(false);
    // DPDK's libraries are there from the start: what they keep for a thread needs no call to be found.
    shims.flag_if_supported("-ftls-model=initial-exec");
    for flag in &c_flags {
        shims.flag(flag);
    }
    shims.compile("understudy_dpdk_shims");
    println!("cargo::metadata=version={}", library.version);
}

/// DPDK names these without a module of pkg-config.
const SYSTEM_LIBRARIES: [&str; 5] = ["-lnuma", "-lfdt", "-ldl", "-lm", "-lpthread"];

/// Links all of DPDK's archives: drivers register themselves when the program starts, and nothing
/// refers to them. What DPDK itself needs stays shared. The pkg-config crate does not keep the
/// order of linker flags, which says what is linked as a whole.
fn link_archives() {
    let flags: BTreeSet<String> = pkg_config(&["--static", "--libs", MODULE]).into_iter().collect();
    for flag in &flags {
        if let Some(directory) = flag.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={directory}");
        } else if let Some(name) = flag.strip_prefix("-l:lib").and_then(|l| l.strip_suffix(".a")) {
            println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={name}");
        }
    }
    let needed = ["--print-requires", "--print-requires-private"]
        .iter()
        .flat_map(|what| pkg_config(&[what, MODULE]))
        .filter(|module| module != "libdpdk-libs")
        .flat_map(|module| pkg_config(&["--libs", &module]));
    let system = flags.iter().filter(|flag| SYSTEM_LIBRARIES.contains(&flag.as_str())).cloned();
    for flag in system.chain(needed) {
        if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
}

/// What pkg-config says, in order. Of compiler flags `-include rte_config.h` and `-march` are among
/// them, which the pkg-config crate does not hand out.
fn pkg_config(words: &[&str]) -> Vec<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(&program).args(words).output().unwrap_or_else(|error| {
        panic!("pkg-config could not be run ({error}): install `pkg-config`")
    });
    assert!(output.status.success(), "`pkg-config {words:?}` failed: {output:?}");
    let text = String::from_utf8(output.stdout).expect("pkg-config prints UTF-8");
    text.split_whitespace().map(str::to_owned).collect()
}

/// bindgen loads libclang at run time, and panics with a long text when there is none.
fn assert_libclang() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let found = panic::catch_unwind(bindgen::clang_version);
    panic::set_hook(hook);
    if found.is_err() {
        panic!(
            "libclang was not found, and bindgen needs it to read DPDK's headers. On Debian and \
             Ubuntu install the package `libclang-dev`; elsewhere set LIBCLANG_PATH to the \
             directory that holds libclang.so."
        );
    }
}

/// `minimum = "22.11"` of versions.toml; the file is ours, so a line scan will do.
fn minimum_version(path: &Path) -> String {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("versions.toml: {error}"));
    text.lines()
        .find_map(|line| line.strip_prefix("minimum = \"")?.strip_suffix('"'))
        .unwrap_or_else(|| panic!("versions.toml holds no line `minimum = \"…\"`"))
        .to_owned()
}
