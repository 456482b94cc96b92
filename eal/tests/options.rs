//! Command lines as DPDK's programs take them, and wrong ones.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Command;
use tracing::level_filters::LevelFilter;
use wirerate_eal::options::{HugeUnlink, IovaMode, LcoreMap, LogDirective};
use wirerate_eal::{EalOptions, OptionsError};

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn parse(line: &str) -> (EalOptions, Vec<OsString>) {
    EalOptions::parse_from(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The one line with which a command line is refused.
fn refusal(line: &str) -> String {
    match EalOptions::parse_from(words(line)) {
        Err(error @ OptionsError::Wrong(_)) => {
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert_eq!(text.lines().count(), 1, "{text}");
            text
        }
        other => panic!("{line} gave {other:?}"),
    }
}

#[test]
fn command_lines_of_dpdk_programs_are_read() {
    let usual = EalOptions::default;
    let lcores = |ids: &[u32]| LcoreMap::one_to_one(ids.iter().copied());
    let functions = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let table: Vec<(&str, EalOptions)> = vec![
        ("", usual()),
        ("-l 0-1", EalOptions { lcores: lcores(&[0, 1]), ..usual() }),
        ("-l0-1", EalOptions { lcores: lcores(&[0, 1]), ..usual() }),
        ("-l=0,2", EalOptions { lcores: lcores(&[0, 2]), ..usual() }),
        ("--lcores=0,2-3", EalOptions { lcores: lcores(&[0, 2, 3]), ..usual() }),
        ("--lcores 0@1", EalOptions { lcores: "0@1".parse().unwrap(), ..usual() }),
        ("-c 0x5", EalOptions { lcores: lcores(&[0, 2]), ..usual() }),
        ("-c3", EalOptions { lcores: lcores(&[0, 1]), ..usual() }),
        ("--main-lcore 1", EalOptions { main_lcore: Some(1), ..usual() }),
        (
            "--vdev=net_pcap0,rx_pcap=a.pcap --vdev net_null0",
            EalOptions { vdevs: strings(&["net_pcap0,rx_pcap=a.pcap", "net_null0"]), ..usual() },
        ),
        (
            "-a 0000:01:00.0 -a01:00.1,foo=1 --allow=02:00.0",
            EalOptions { allow: functions(&["0000:01:00.0", "01:00.1,foo=1", "02:00.0"]), ..usual() },
        ),
        ("-b 01:00.0 --block 01:00.1", EalOptions { block: functions(&["01:00.0", "01:00.1"]), ..usual() }),
        ("--no-huge -m 512", EalOptions { no_huge: true, memory_mib: Some(512), ..usual() }),
        ("-m64 --no-pci", EalOptions { memory_mib: Some(64), no_pci: true, ..usual() }),
        ("--socket-mem 1024,512", EalOptions { numa_mem_mib: vec![1024, 512], ..usual() }),
        ("--numa-mem=0,256", EalOptions { numa_mem_mib: vec![0, 256], ..usual() }),
        ("--in-memory --file-prefix x", EalOptions { in_memory: true, file_prefix: "x".into(), ..usual() }),
        (
            "--huge-dir /mnt/huge --huge-unlink",
            EalOptions { huge_dir: Some(PathBuf::from("/mnt/huge")), ..usual() },
        ),
        ("--huge-unlink=never", EalOptions { huge_unlink: HugeUnlink::Never, ..usual() }),
        ("--huge-unlink=existing", EalOptions { huge_unlink: HugeUnlink::Existing, ..usual() }),
        ("--iova-mode=pa", EalOptions { iova_mode: Some(IovaMode::Physical), ..usual() }),
        ("--iova-mode va", EalOptions { iova_mode: Some(IovaMode::Virtual), ..usual() }),
        (
            "--log-level lib.eal:debug --log-level=8",
            EalOptions {
                log_level: vec![
                    LogDirective { target: Some("wirerate_eal".into()), level: LevelFilter::DEBUG },
                    LogDirective { target: None, level: LevelFilter::DEBUG },
                ],
                ..usual()
            },
        ),
        ("-v", EalOptions { show_version: true, ..usual() }),
        (
            "-n 4 --proc-type=primary --legacy-mem --single-file-segments --no-telemetry",
            EalOptions {
                without_effect: vec![
                    "-n",
                    "--proc-type",
                    "--legacy-mem",
                    "--single-file-segments",
                    "--no-telemetry",
                ],
                ..usual()
            },
        ),
        (
            "-n4 --proc-type auto --telemetry",
            EalOptions { without_effect: vec!["-n", "--proc-type", "--telemetry"], ..usual() },
        ),
        ("--no-shconf --no-hpet", EalOptions { without_effect: vec!["--no-shconf", "--no-hpet"], ..usual() }),
    ];
    for (line, expected) in table {
        assert_eq!(parse(line), (expected, Vec::new()), "{line}");
        let (_, rest) = parse(&format!("{line} -- -p 3 --no-such -- x"));
        assert_eq!(rest, words("-p 3 --no-such -- x"), "{line}");
    }
}

#[test]
fn a_misspelt_option_gets_a_suggestion() {
    for (line, text) in [
        ("--no-hug", "unexpected argument '--no-hug'; did you mean '--no-huge'?"),
        ("--vdevs net_null0 -- -p 3", "unexpected argument '--vdevs'; did you mean '--vdev'?"),
        ("--lcore 0", "unexpected argument '--lcore'; did you mean '--lcores'?"),
        ("--socket-memory 1", "unexpected argument '--socket-memory'; did you mean '--socket-mem'?"),
        (
            "--iova-mode=paa",
            "invalid value 'paa' for '--iova-mode <MODE>' [possible values: pa, va]; did you mean 'pa'?",
        ),
        ("-p 3", "unexpected argument '-p'; the application's own options come after --"),
        ("-p 3 -- -q 1", "unexpected argument '-p'"),
    ] {
        assert_eq!(refusal(line), text);
    }
}

#[test]
fn wrong_values_and_contradictions_are_named() {
    for (line, part) in [
        ("-l", "a value is required for '--lcores <LIST>'"),
        ("-l 0-", "'0-' is no number"),
        ("-l 9999", "no number below 1024"),
        ("-l (0", "the brackets in '(0' do not match"),
        ("-c 0", "no lcore is in the mask"),
        ("-c zz", "expected a hexadecimal mask"),
        ("-l 0 -c 1", "cannot be used with"),
        ("-a 01:00.0 -b 01:00.1", "cannot be used with"),
        (
            "-a net_null0,size=64",
            "net_null0 is a virtual device, which --vdev makes: --vdev net_null0,size=64",
        ),
        ("-a 01:00:0", "did you mean 0000:01:00.0?"),
        ("-b eth0", "\"eth0\" is no PCI address"),
        ("-m 0", "'0' for '--memory-size <MIB>'"),
        ("-m 1G", "invalid digit"),
        ("-m 64 --socket-mem 64", "cannot be used with"),
        ("--huge-unlink=maybe", "[possible values: always, existing, never]"),
        ("--file-prefix a/b", "must not have a '/'"),
        ("--proc-type=secondary", "there are no secondary processes"),
        ("--proc-type=third", "expected primary or auto"),
        ("--log-level lib.eal:loud", "'loud' is no level"),
        ("--telemetry --no-telemetry", "cannot be used with"),
        ("--main-lcore x", "invalid digit"),
        ("stray", "unexpected argument 'stray'"),
    ] {
        let text = refusal(line);
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[test]
fn help_and_version_are_texts_and_no_errors_of_the_user() {
    let error = EalOptions::parse_from(["--help"]).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    let OptionsError::Help(text) = error else { panic!("{error:?}") };
    for option in
        ["--lcores", "--vdev", "--no-huge", "--huge-dir", "--file-prefix", "--log-level", "--main-lcore"]
    {
        assert!(text.contains(option), "{option} is not in the help");
    }
    let error = EalOptions::parse_from(["--version"]).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    assert!(matches!(error, OptionsError::Version(_)));
}

#[test]
fn a_program_can_show_the_options_in_its_own_help() {
    let mut command = EalOptions::augment(Command::new("l2fwd"));
    assert!(command.render_help().to_string().contains("--no-huge"));
    command.debug_assert();
}
