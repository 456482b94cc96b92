//! Writes the first inputs of every target to the folder `corpus`.

fn main() -> std::io::Result<()> {
    for target in ["messages", "session", "device_ring", "driver_ring", "ports"] {
        let folder = std::path::Path::new("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, input) in wirerate_fuzz::seeds::of(target).iter().enumerate() {
            std::fs::write(folder.join(format!("first-{number}")), input)?;
        }
    }
    Ok(())
}
