//! Compiles what runs in the kernel: the load and the bare forwarder of `compare`, as the server's own program is compiled.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCES: [&str; 2] = ["load", "forwarder"];
/// Where `bpf.h` is.
const HEADERS: &str = "../src/offload/program";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=program");
    println!("cargo::rerun-if-changed={HEADERS}/bpf.h");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rustc-check-cfg=cfg(kernel_programs)");
    match SOURCES.iter().all(|name| compile(name)) {
        true => println!("cargo::rustc-cfg=kernel_programs"),
        false => {
            println!("cargo::warning=clang could not compile benches/program: rows of the kernel's load are skipped")
        }
    }
}

fn compile(name: &str) -> bool {
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join(format!("{name}.o"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut command = Command::new(env::var_os("CLANG").unwrap_or_else(|| "clang".into()));
    command.args(["-target", "bpf", "-mcpu=v3", "-std=gnu11", "-g", "-O2", "-fdebug-compilation-dir=.", "-Wall"]);
    command.arg(format!("-I{HEADERS}")).arg("-idirafter").arg(format!("/usr/include/{arch}-linux-gnu"));
    command.arg("-c").arg(format!("program/{name}.c")).arg("-o").arg(object);
    command.status().is_ok_and(|status| status.success())
}
