//! Compiles the program that relays in the kernel (`src/offload/program`), if the feature asks for it and clang is there.
//!
//! Nothing here fails the build: where something is missing, one warning says what, and the server is built without.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its one translation unit; the rest is included.
const SOURCE: &str = "src/offload/program/main.c";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/offload/program");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rustc-check-cfg=cfg(offload_program)");
    if env::var_os("CARGO_FEATURE_OFFLOAD").is_none() || env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("offload.o");
    match compile(&object) {
        Ok(()) => println!("cargo::rustc-cfg=offload_program"),
        Err(why) => println!("cargo::warning=built without relaying in the kernel: {why}"),
    }
}

fn compile(object: &Path) -> Result<(), String> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let big_endian = env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() == Ok("big");
    let target = if big_endian { "bpfeb" } else { "bpfel" };
    let mut command = Command::new(&clang);
    command.args([
        "-target",
        target,
        "-mcpu=v3",
        "-std=gnu11",
        "-g",
        "-O2",
        "-fdebug-compilation-dir=.",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]);
    // Debian keeps asm/types.h, which the kernel's headers ask for, in a folder for each architecture.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    command.arg("-idirafter").arg(format!("/usr/include/{arch}-linux-gnu"));
    command.args(["-c", SOURCE, "-o"]).arg(object);
    let output = command.output().map_err(|error| {
        format!("{} cannot be started ({error}); install clang, or name it in CLANG", clang.display())
    })?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().find(|line| line.contains("error")).unwrap_or("no message").to_owned();
    Err(format!("clang could not compile {SOURCE}: {first} (it needs the kernel's headers, Debian: linux-libc-dev)"))
}
