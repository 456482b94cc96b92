//! Prints the registers that the model of the 82599 has: where each is, what may be done with it, what it reads as after a
//! reset, and where the datasheet tells of it. With a name as its argument, or the beginning of one, it prints only those.
#![forbid(unsafe_code)]

use wirerate_nic::registers::{Access, Register, TABLE};

fn access(register: &Register) -> &'static str {
    match register.access {
        Access::ReadWrite => "RW",
        Access::ReadOnly => "RO",
        Access::ReadClear => "RC",
        Access::WriteOnly => "WO",
        Access::WriteClear => "W1C",
    }
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    println!("offset   access  reset       written     name            section");
    for register in TABLE.iter().filter(|register| register.name.starts_with(&wanted)) {
        let Register { name, section, offset, count, stride, first, reset, .. } = register;
        let array = match count {
            1 => String::new(),
            _ => format!("[{first}..={}] every {stride:#x} bytes", first + count - 1),
        };
        println!(
            "{offset:#07x}  {:<6}  {reset:#010x}  {:#010x}  {name:<14}  {section} {array}",
            access(register),
            register.kept | register.clearing,
        );
    }
}
