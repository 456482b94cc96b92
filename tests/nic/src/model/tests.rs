//! Registers, read and written.

use super::super::sfp::tests::Host;
use super::*;

pub(crate) fn model(seed: u64) -> Model {
    Model::new(Settings { seed, ..Settings::default() })
}

fn reads(model: &mut Model, offset: u32, mask: u32, value: u32) -> bool {
    (0..5).any(|_| model.read32(offset) & mask == value)
}

fn told(model: &Model) -> Vec<String> {
    model.faults().list().iter().map(ToString::to_string).collect()
}

#[test]
fn a_reset_gives_each_register_its_first_value() {
    let mut model = model(4);
    for (offset, value) in [(0x5078, 0x8200_0000), (0x5080, 0x702), (0x1008, 0x80), (0x5200, 9)] {
        model.write32(offset, value);
    }
    model.write32(0x5404, 0x1234);
    model.write32(0x880, 1);
    assert_eq!((model.read32(0x5080), model.read32(0xa204), model.read32(0x880)), (0x702, 0x1234, 1));
    model.write32(0x0, CTRL_RESET);
    assert!(reads(&mut model, 0x0, CTRL_RESET, 0));
    assert!(reads(&mut model, 0x10010, EEC_AUTO_READ_DONE, EEC_AUTO_READ_DONE));
    assert!(reads(&mut model, 0x2f00, RDRXCTL_INIT_DONE, RDRXCTL_INIT_DONE));
    assert_eq!((model.read32(0x5080), model.read32(0x1008), model.read32(0x5200)), (0, 0, 0));
    assert_eq!((model.read32(0x880), model.read32(0x3c00), model.read32(0x3c04)), (0, 0x8_0000, 0));
    assert_eq!((model.read32(0x5400), model.read32(0x5404)), (0x12ba_e290, 0x8000_5634));
    assert!(told(&model).is_empty(), "{:?}", told(&model));
}

#[test]
fn what_may_not_be_written_is_a_fault_with_its_section() {
    let mut model = model(1);
    model.write32(0x8, 1);
    model.write32(0x4074, 0);
    model.write32(0x1000 + 0x40 * 3, 0x1234_5640);
    model.write32(0x104, 7);
    assert_eq!(model.read32(0x2), 0);
    model.write32(0x10014, 0x8);
    model.write32(0x2f00, 0);
    model.write32(0x10160, 1);
    assert_eq!(
        told(&model),
        [
            "STATUS 0x1: it can only be read (82599 datasheet, 8.2.3.1.2)",
            "GPRC 0x0: it can only be read (82599 datasheet, 8.2.3.23)",
            "RDBAL[3] 0x12345640: reserved bits 0x40 are to be written as 0x0 (82599 datasheet, 8.2.3.8.1)",
            "0x00104 0x7: there is no such register (82599 datasheet, 8.2.2)",
            "0x00002 0x0: there is no such register (82599 datasheet, 8.2.2)",
            "SW_FW_SYNC 0x1: SWSM.SWESMBI is to be had first (10.5.4) (82599 datasheet, 8.2.3.4.11)",
        ]
    );
    assert_eq!(model.read32(0x10c0), 0x1234_5600, "the lowest bits are not kept");
    assert_eq!(model.read32(BAR_LEN as u32), u32::MAX);
}

#[test]
fn words_of_the_eeprom_come_after_a_while() {
    for seed in 0..10 {
        let mut model = model(seed);
        let sum = (0..0x40u32).fold(0u16, |sum, word| {
            model.write32(0x10014, word << 2 | EERD_START);
            assert!(reads(&mut model, 0x10014, EERD_DONE, EERD_DONE));
            sum.wrapping_add((model.read32(0x10014) >> 16) as u16)
        });
        // The core's part is in the sum, too.
        let mac = [0xe290u16, 0x12ba, 0x5634].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        assert_eq!(sum.wrapping_add(mac), 0xbaba);
        assert!(told(&model).is_empty(), "{:?}", told(&model));
    }
}

fn take_sync(model: &mut Model, bits: u32) {
    assert_eq!(model.read32(0x10140) & SWSM_DRIVER, 0);
    assert_eq!(model.read32(0x10140) & SWSM_DRIVER, SWSM_DRIVER, "whoever reads it has it");
    model.write32(0x10140, SWSM_DRIVER | SWSM_FIRMWARE);
    assert_eq!(model.read32(0x10140) & SWSM_FIRMWARE, SWSM_FIRMWARE);
    let sync = model.read32(0x10160);
    model.write32(0x10160, sync | bits);
    model.write32(0x10140, 0);
}

#[test]
fn semaphores_are_to_be_had_before_what_they_guard() {
    let mut model = model(1);
    take_sync(&mut model, SYNC_PHY0 | SYNC_EEPROM);
    let bytes = Host(|clock, data| {
        let bit = |on, bit| if on { bit } else { 0 };
        model.write32(0x28, bit(clock, I2C_CLOCK_OUT) | bit(data, I2C_DATA_OUT));
        model.read32(0x28) & I2C_DATA_IN != 0
    })
    .read(0xa0, 0, 4);
    assert_eq!(bytes, Some(vec![3, 4, 7, 0x10]));
    let eec = model.read32(0x10010) & 0x70;
    model.write32(0x10010, eec | EEC_REQUEST);
    assert_eq!(model.read32(0x10010) & EEC_GRANT, EEC_GRANT);
    model.write32(0x10010, eec | EEC_REQUEST | 1);
    model.write32(0x10010, eec);
    assert!(told(&model).is_empty(), "{:?}", told(&model));

    take_sync(&mut model, 0);
    model.write32(0x10140, SWSM_FIRMWARE);
    model.write32(0x10160, 0);
    model.write32(0x28, 0xa);
    model.write32(0x10010, eec | EEC_REQUEST);
    model.write32(0x10010, eec);
    model.write32(0x10010, eec | 2);
    let registers: Vec<_> = model.faults().list().iter().map(|fault| fault.register.clone()).collect();
    assert_eq!(registers, ["I2CCTL", "EEC", "EEC"]);
}

#[test]
fn a_master_that_is_to_stop_says_when_it_has() {
    let mut model = model(1);
    assert_eq!(model.read32(0x8) & STATUS_MASTER_ENABLED, STATUS_MASTER_ENABLED);
    model.write32(0x0, CTRL_MASTER_DISABLE);
    assert_eq!(model.read32(0x8) & STATUS_MASTER_ENABLED, 0);
    assert_eq!(model.read32(0x20) & ESDP_SDP2, ESDP_SDP2);
}
