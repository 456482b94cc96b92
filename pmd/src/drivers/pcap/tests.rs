//! What the capture formats promise, whatever is in a file.

use std::io::{self, Read, Write};

use proptest::prelude::*;

use super::*;

/// A capture as another program might have written it: made here by hand, so that reader and writer are not
/// only compared with each other.
#[derive(Debug, Default)]
struct Made {
    bytes: Vec<u8>,
    big_endian: bool,
}

impl Made {
    fn new(big_endian: bool) -> Self {
        Self { bytes: Vec::new(), big_endian }
    }

    fn long(&mut self, number: u32) -> &mut Self {
        self.bytes.extend(if self.big_endian { number.to_be_bytes() } else { number.to_le_bytes() });
        self
    }

    fn short(&mut self, number: u16) -> &mut Self {
        self.bytes.extend(if self.big_endian { number.to_be_bytes() } else { number.to_le_bytes() });
        self
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    fn pad(&mut self) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn pcap_header(&mut self, magic: u32, link: u32) -> &mut Self {
        self.long(magic).short(2).short(4).long(0).long(0).long(65535).long(link)
    }

    fn pcap_record(&mut self, seconds: u32, fraction: u32, original: u32, data: &[u8]) -> &mut Self {
        self.long(seconds).long(fraction).long(data.len() as u32).long(original).raw(data)
    }

    fn block(&mut self, kind: u32, fill: impl FnOnce(&mut Self) -> &mut Self) -> &mut Self {
        let mut body = Self::new(self.big_endian);
        fill(&mut body);
        body.pad();
        let total = body.bytes.len() as u32 + 12;
        self.long(kind).long(total).raw(&body.bytes).long(total)
    }

    fn section(&mut self) -> &mut Self {
        self.block(0x0a0d_0d0a, |body| body.long(0x1a2b_3c4d).short(1).short(0).long(u32::MAX).long(u32::MAX))
    }

    fn interface(&mut self, link: u16, snaplen: u32, options: &[(u16, &[u8])]) -> &mut Self {
        self.block(1, |body| body.short(link).short(0).long(snaplen).options(options))
    }

    fn options(&mut self, options: &[(u16, &[u8])]) -> &mut Self {
        for (code, value) in options {
            self.short(*code).short(value.len() as u16).raw(value).pad();
        }
        if options.is_empty() { self } else { self.long(0) }
    }

    fn packet(&mut self, interface: u32, ticks: u64, data: &[u8], options: &[(u16, &[u8])]) -> &mut Self {
        self.block(6, |body| {
            body.long(interface).long((ticks >> 32) as u32).long(ticks as u32);
            body.long(data.len() as u32).long(data.len() as u32).raw(data).pad().options(options)
        })
    }
}

/// Gives a few bytes at a time, now and then nothing but an interruption.
#[derive(Debug)]
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = room.len().min(self.0.len()).min(1 + self.1 % 13);
        let (here, rest) = self.0.split_at(count);
        room[..count].copy_from_slice(here);
        self.0 = rest;
        Ok(count)
    }
}

type Frame = (Option<u64>, u32, Vec<u8>);

/// All records up to the end or the error, after which there must be nothing more.
fn read_all<R: Read>(source: R) -> (Vec<Frame>, Option<CaptureError>) {
    let mut reader = match CaptureReader::new(source) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut frames = Vec::new();
    let end = loop {
        match reader.peek() {
            Ok(Some(record)) => frames.push((record.timestamp, record.original_len, record.data.to_vec())),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
        reader.advance();
    };
    assert!(matches!(reader.peek(), Ok(None)), "after its end a file has nothing");
    assert_eq!(reader.taken(), frames.len() as u64);
    (frames, end)
}

fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let (frames, end) = read_all(bytes);
    assert!(end.is_none(), "{end:?}");
    assert_eq!(frames, read_all(Dribble(bytes, 0)).0, "the size of reads does not matter");
    frames
}

fn error_of(bytes: &[u8]) -> String {
    read_all(bytes).1.expect("the capture is wrong").to_string()
}

#[test]
fn pcap_in_either_order_and_resolution() {
    for big_endian in [false, true] {
        for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let mut made = Made::new(big_endian);
            made.pcap_header(magic, 1).pcap_record(1_700_000_000, 999_999, 3, b"abc").pcap_record(
                u32::MAX,
                u32::MAX,
                70,
                b"",
            );
            let expected = [
                (Some(1_700_000_000_000_000_000 + 999_999 * unit), 3, b"abc".to_vec()),
                (Some(u64::from(u32::MAX) * (1_000_000_000 + unit)), 70, Vec::new()),
            ];
            assert_eq!(frames_of(&made.bytes), expected);
        }
    }
    // Kuznetzov's variant, and a header that says that frames carry a check sequence.
    let mut made = Made::new(false);
    made.pcap_header(0xa1b2_cd34, 0x2400_0001).long(7).long(8).long(2).long(2).raw(&[0; 8]).raw(b"xy");
    assert_eq!(frames_of(&made.bytes), [(Some(7_000_008_000), 2, b"xy".to_vec())]);
}

#[test]
fn pcapng_stamps_by_resolution_and_offset() {
    for big_endian in [false, true] {
        let hour: i64 = 3600;
        let offset = if big_endian { hour.to_be_bytes() } else { hour.to_le_bytes() };
        let mut made = Made::new(big_endian);
        made.section()
            .interface(1, 0, &[])
            .interface(1, 0, &[(2, b"eth0"), (9, &[9])])
            .interface(1, 0, &[(9, &[0x8a])])
            .interface(1, 0, &[(9, &[12]), (14, &offset)])
            .interface(1, 0, &[(0, &[]), (9, &[9])])
            .packet(0, 1_700_000_000_000_001, b"a", &[])
            .packet(1, 1_700_000_000_000_000_001, b"bc", &[(1, b"a comment"), (2, &[0, 0, 0, 1])])
            .packet(2, 1024 * 5 + 512, b"def", &[])
            .packet(3, 2_000_000_000_123, b"ghij", &[])
            .packet(4, 3, b"k", &[])
            .packet(0, u64::MAX, b"", &[]);
        let stamps: Vec<_> =
            frames_of(&made.bytes).into_iter().map(|frame| (frame.0.unwrap(), frame.2)).collect();
        let expected = [
            (1_700_000_000_000_001_000, b"a".to_vec()),
            (1_700_000_000_000_000_001, b"bc".to_vec()),
            (5_500_000_000, b"def".to_vec()),
            (3_602_000_000_000, b"ghij".to_vec()),
            // What follows the end of options is none.
            (3000, b"k".to_vec()),
            (u64::MAX, Vec::new()),
        ];
        assert_eq!(stamps, expected);
    }
}

#[test]
fn pcapng_blocks_that_are_no_packets_are_passed_over() {
    let mut made = Made::new(false);
    made.section()
        .interface(1, 2, &[])
        .block(0x0bad, |body| body.raw(&vec![0x55; 3 << 20]))
        .block(3, |body| body.long(9).raw(b"xy"))
        .block(5, |body| body.long(0).long(0).long(0));
    // A second section has its own byte order and its own interfaces.
    let mut second = Made::new(true);
    second.section().interface(1, 0, &[(9, &[3])]).packet(0, 4, b"zz", &[]);
    made.raw(&second.bytes);
    // The simple packet has no stamp, and its length is the interface's limit.
    assert_eq!(frames_of(&made.bytes), [(None, 9, b"xy".to_vec()), (Some(4_000_000), 2, b"zz".to_vec())]);
    second.section().packet(0, 4, b"zz", &[]);
    assert_eq!(
        error_of(&second.bytes),
        "is damaged at packet 2: it came in by interface 0, which is not described"
    );
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    assert_eq!(error_of(b""), "is empty: a capture has at least a header");
    assert_eq!(
        error_of(b"# Read me\nfirst, please"),
        "is no pcap or pcapng capture: it starts with [23, 20, 52, 65]"
    );
    let made = |magic, link| Made::new(false).pcap_header(magic, link).bytes.clone();
    assert_eq!(
        error_of(&made(0xa1b2_c3d4, 101)),
        "packet 1 has link type 101 (raw IP), and only Ethernet (1) can be received"
    );
    let mut huge = Made::new(false);
    huge.pcap_header(0xa1b2_c3d4, 1).pcap_record(1, 1, 1, b"x").long(1).long(1).long(262_145).long(262_145);
    assert_eq!(
        error_of(&huge.bytes),
        "is damaged at packet 2: a frame of 262145 bytes, where 262144 are the most"
    );
    let with = |fill: fn(&mut Made) -> &mut Made| {
        let mut made = Made::new(false);
        made.section().interface(1, 0, &[]).interface(113, 0, &[]).packet(0, 1, b"x", &[]);
        fill(&mut made);
        error_of(&made.bytes)
    };
    assert_eq!(
        with(|made| made.packet(1, 1, b"x", &[])),
        "packet 2 has link type 113 (Linux cooked), and only Ethernet (1) can be received"
    );
    assert_eq!(with(|made| made.long(6).long(14)), "ends in the middle of packet 2");
    assert_eq!(with(|made| made.long(6).long(14).long(0)), "is damaged at packet 2: a block of 14 bytes");
    assert_eq!(
        with(|made| made.long(6).long(!3).long(0)),
        "is damaged at packet 2: a block of 4294967292 bytes"
    );
    assert_eq!(with(|made| made.long(77).long(!3).long(0)), "ends in the middle of packet 2");
    // A length inside a block that points out of it.
    assert_eq!(
        with(|made| made.block(6, |body| body.long(0).long(0).long(0).long(100).long(100).raw(b"abcd"))),
        "is damaged at packet 2: a block whose contents do not fit in it"
    );
    assert_eq!(
        with(|made| made.interface(1, 0, &[(9, &[0xc0])])),
        "is damaged at packet 2: an interface whose clock ticks 2^64 times a second"
    );
    assert!(with(|made| made.block(2, |body| body)).contains("editcap"));
}

/// A small capture with all that the reader knows.
struct Sample {
    bytes: Vec<u8>,
    /// Where each packet's record ends.
    ends: Vec<usize>,
    /// Where the file may end without anybody noticing: behind the header, records and other blocks.
    edges: Vec<usize>,
}

fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for big_endian in [false, true] {
        let (mut made, mut ends) = (Made::new(big_endian), Vec::new());
        let mut edges = vec![made.pcap_header(0xa1b2_3c4d, 1).bytes.len()];
        for len in [0, 1, 60, 3] {
            ends.push(made.pcap_record(5, 6, len, &vec![7; len as usize]).bytes.len());
        }
        edges.extend(&ends);
        samples.push(Sample { bytes: made.bytes, ends, edges });

        let mut made = Made::new(big_endian);
        let mut edges = vec![made.section().bytes.len()];
        edges.push(made.interface(1, 50, &[(9, &[9])]).bytes.len());
        edges.push(made.packet(0, 5, &[1; 33], &[]).bytes.len());
        edges.push(made.block(0x0bad, |body| body.long(1)).bytes.len());
        edges.push(made.block(3, |body| body.long(3).raw(b"abc")).bytes.len());
        edges.push(made.section().bytes.len());
        edges.push(made.interface(1, 0, &[]).bytes.len());
        edges.push(made.packet(0, 5, b"", &[(1, b"empty")]).bytes.len());
        samples.push(Sample { bytes: made.bytes, ends: vec![edges[2], edges[4], edges[7]], edges });
    }
    samples
}

#[test]
fn cut_anywhere_all_before_the_cut_is_read() {
    for Sample { bytes, ends, edges } in samples() {
        let whole = frames_of(&bytes);
        assert_eq!(whole.len(), ends.len());
        for cut in 0..bytes.len() {
            for (frames, end) in [read_all(&bytes[..cut]), read_all(Dribble(&bytes[..cut], cut))] {
                let complete = ends.iter().take_while(|&&end| end <= cut).count();
                assert_eq!(frames, whole[..complete], "cut at {cut}");
                match end {
                    None => assert!(edges.contains(&cut), "cut at {cut}"),
                    Some(CaptureError::Empty) => assert_eq!(cut, 0),
                    Some(CaptureError::Truncated { packet }) => assert_eq!(packet, complete as u64 + 1),
                    Some(error) => panic!("cut at {cut}: {error:?}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Whatever is done to a capture: reading ends, in bounds, and without much memory.
    #[test]
    fn mutated_captures_are_survived(
        sample in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8),
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..2),
    ) {
        let mut bytes = samples().swap_remove(sample).bytes;
        for (place, value, how) in changes {
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes[at] ^= 1 << (value % 8),
            }
        }
        for (place, value) in words {
            let at = place.index(bytes.len()) & !3;
            if let Some(word) = bytes.get_mut(at..at + 4) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        let (frames, _) = read_all(&bytes[..]);
        prop_assert!(frames.iter().map(|frame| 12 + frame.2.len()).sum::<usize>() <= bytes.len());
        prop_assert_eq!(frames, read_all(Dribble(&bytes, 3)).0);
    }

    /// What is written is what is read, in both formats, however frames are cut into segments.
    #[test]
    fn written_and_read_again(
        pcapng: bool,
        snaplen in 1..400_usize,
        frames in prop::collection::vec(
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..300), 1..50_usize),
            0..30,
        ),
    ) {
        let format = if pcapng { CaptureFormat::PcapNg } else { CaptureFormat::Pcap };
        let mut bytes = Vec::new();
        let mut writer = CaptureWriter::new(&mut bytes, format, snaplen).unwrap();
        let mut expected = Vec::new();
        for (stamp, data, piece) in &frames {
            // pcap has 32 bits for seconds.
            let stamp = if pcapng { *stamp } else { *stamp % (1_000_000_000 << 32) };
            writer.write(stamp, data.len(), data.chunks(*piece)).unwrap();
            expected.push((Some(stamp), data.len() as u32, data[..data.len().min(snaplen)].to_vec()));
        }
        drop(writer);
        prop_assert_eq!(frames_of(&bytes), expected);
    }
}

/// Takes so many bytes and no more.
#[derive(Debug)]
struct Full<'a>(&'a mut Vec<u8>, usize);

impl Write for Full<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.1 - self.0.len()).min(50);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_leaves_a_capture_that_can_be_cut_whole() {
    for format in [CaptureFormat::Pcap, CaptureFormat::PcapNg] {
        let header = format.header(100).len();
        for room in 0..header + 200 {
            let mut bytes = Vec::new();
            let Ok(mut writer) = CaptureWriter::new(Full(&mut bytes, room), format, 100) else {
                assert!(room < header);
                continue;
            };
            for stamp in 0..5 {
                writer.write(stamp, 21, [&[3; 21][..]]).unwrap();
            }
            let told = writer.flush();
            // It stays that way, and says so.
            assert_eq!(told.is_err(), writer.write(9, 1, [&[1][..]]).is_err());
            drop(writer);
            let error = match told {
                Ok(()) => continue,
                Err(error) => error,
            };
            assert_eq!(bytes.len(), room);
            bytes.truncate(error.whole as usize);
            let frames = frames_of(&bytes);
            assert_eq!(frames.len() as u64 + error.lost, 5, "room for {room} bytes: {error:?}");
            assert!(frames.iter().zip(0..).all(|(frame, stamp)| frame.0 == Some(stamp)));
        }
    }
}

#[test]
fn memory_is_bounded_by_what_is_there() {
    // A block that promises a megabyte, and a record that promises a frame of the longest kind.
    let mut block = Made::new(false);
    block.section().interface(1, 0, &[]).long(6).long(1 << 20).long(0);
    let mut record = Made::new(false);
    record.pcap_header(0xa1b2_c3d4, 1).long(0).long(0).long(MAX_FRAME as u32).long(0);
    for made in [block, record] {
        let mut reader = CaptureReader::new(&made.bytes[..]).unwrap();
        assert!(matches!(reader.peek(), Err(CaptureError::Truncated { packet: 1 })));
        assert!(reader.buffer_len() <= 1 << 20, "{} bytes", reader.buffer_len());
    }
    let mut longest = Made::new(false);
    longest.pcap_header(0xa1b2_c3d4, 1);
    for _ in 0..3 {
        longest.pcap_record(0, 0, MAX_FRAME as u32, &vec![9; MAX_FRAME]);
    }
    assert!(frames_of(&longest.bytes).iter().all(|frame| frame.2 == vec![9; MAX_FRAME]));
}
