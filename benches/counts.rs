//! Whether the packet path and an authenticated Allocate still take the instructions that `instructions.txt` has, and not
//! more than a tenth beyond: the one figure of speed that a test can hold on to. CONTRIBUTING.md says how to move it.

use std::process::Command;

#[test]
fn the_packet_path_and_allocate_take_no_more_instructions() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_instructions"));
    command.arg("--unoptimised");
    if std::env::var_os("INSTRUCTIONS").is_some_and(|wish| wish == "write") {
        command.arg("--write");
    }
    let output = command.output().expect("our own program");
    let (said, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("{said}");
    assert!(output.status.success(), "{said}{problem}");
}
