//! The program from outside: exit codes, one-line errors, and output that others can use.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

fn wirerate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wirerate")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn doctor_tells_about_this_machine() {
    let output = wirerate(&["doctor"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let shown = text(&output.stdout);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(shown.contains(&format!("Linux {}", release.trim())), "{shown}");
    assert!(shown.contains("drivers that work now:  ") && shown.contains("net_ring"), "{shown}");
    assert!(shown.lines().count() < 40, "short enough for a screen:\n{shown}");
}

#[test]
fn doctor_speaks_json() {
    let output = wirerate(&["doctor", "--json"]);
    assert!(output.status.success());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = value["checks"].as_array().unwrap();
    assert!(checks.len() > 10);
    for check in checks {
        let good = check["state"] == "good";
        assert_eq!(good, check["mend"].is_null(), "{check}");
        assert!(["good", "better", "lacking"].contains(&check["state"].as_str().unwrap()));
    }
    let drivers = value["drivers"].as_array().unwrap();
    assert!(drivers.iter().any(|driver| driver["driver"] == "net_pcap" && driver["works"] == true));
}

#[test]
fn hugepages_are_shown() {
    for arguments in [&["hugepages"][..], &["hugepages", "show"]] {
        let output = wirerate(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let heading: Vec<_> =
            text(&output.stdout).lines().next().unwrap().split_whitespace().map(str::to_owned).collect();
        assert_eq!(heading, ["Node", "Pages", "Size", "Total", "Free"]);
    }
}

#[test]
fn bind_shows_the_devices_that_sysfs_has() {
    let output = wirerate(&["bind", "--json"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let devices = value["devices"].as_array().unwrap();
    let class = |name: &str| std::fs::read_to_string(format!("/sys/bus/pci/devices/{name}/class"));
    let entries = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let networks: Vec<String> =
        names.filter(|name| class(name).is_ok_and(|class| class.starts_with("0x02"))).collect();
    let shown = text(&wirerate(&["bind"]).stdout);
    for name in &networks {
        assert!(devices.iter().any(|device| device["address"] == **name), "{name}: {value}");
        assert!(shown.contains(&format!("\n{name} '")), "{name}: {shown}");
    }
    assert!(
        !networks.is_empty() || shown.starts_with("No 'Network' devices detected") || !devices.is_empty()
    );
}

#[test]
fn bad_input_is_one_line_and_code_2() {
    for (arguments, expected) in [
        (&["hugepages", "--reserve", "lots"][..], "expected a size, for instance 512M or 4G"),
        (&["hugepages", "--reserve", "6M", "--page-size", "3M"], "there are no hugepages of 3M"),
        (&["hugepages", "--reserve", "2M", "--node", "4000"], "there is no NUMA node 4000"),
        (&["hugepages", "--clear", "--reserve", "2M"], "cannot be used with"),
        (&["hugepages", "--reserv", "2M"], "did you mean '--reserve'?"),
        (&["bind", "--bind", "vfio-pci", "ffff:ff:1f.7"], "ffff:ff:1f.7: there is no such PCI function"),
        (&["bind", "--unbind", "wirerate-none"], "no device \"wirerate-none\""),
        (&["bind", "wirerate-none"], "what is to be done with wirerate-none?"),
        (&["bind", "--bin", "vfio-pci"], "did you mean '--bind'?"),
        (&["docter"], "did you mean 'doctor'?"),
    ] {
        let output = wirerate(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.contains(expected), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(wirerate(&[]).status.code(), Some(2));
    assert!(wirerate(&["--version"]).status.success());
}

/// Runs a contest where there is no compiler and so no DPDK.
fn contest_alone(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_wirerate"))
        .arg("bench")
        .args(arguments)
        .args(["--rounds", "1", "--ms", "2"])
        .env("PATH", "")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn pools_are_compared_without_dpdk_and_what_lacks_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let [json, svg] = ["pools.json", "pools.svg"].map(|file| directory.path().join(file));
    let files = ["--json", json.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    let shown = contest_alone(&[&["mempool", "--only", "1 core"], &files[..]].concat());
    let missing = "DPDK is left out: there is no C compiler, cc (Debian: apt install gcc libdpdk-dev)";
    assert_eq!(shown.lines().next(), Some(missing), "{shown}");
    let pools = [
        "wirerate",
        "wirerate cache",
        "wirerate typed",
        "ArrayQueue",
        "malloc",
        "sharded-slab",
        "object-pool",
    ];

    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert!(figures["machine"].as_str().unwrap().contains("crossbeam-queue 0."), "{figures}");
    let work = &figures["works"][0];
    assert_eq!((&work["name"], figures["works"].as_array().unwrap().len()), (&"1 core".into(), 1));
    let names: Vec<_> =
        work["contestants"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, pools);
    for contestant in work["contestants"].as_array().unwrap() {
        let medians: Vec<_> = contestant["cycles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["median"].as_f64().unwrap())
            .collect();
        assert!(medians.len() == 5 && medians.iter().all(|cycles| *cycles > 0.0), "{contestant}");
    }

    let drawn = std::fs::read_to_string(svg).unwrap();
    let document = roxmltree::Document::parse(&drawn).unwrap();
    for name in pools {
        assert!(
            shown.contains(name) && document.descendants().any(|node| node.text() == Some(name)),
            "{name}"
        );
    }
}

#[test]
fn rings_are_compared_without_dpdk() {
    let shown = contest_alone(&["ring", "--only", "same core"]);
    for expected in
        ["DPDK is left out", "single ends, same core", "multi ends, same core", "ArrayQueue / wirerate"]
    {
        assert!(shown.contains(expected), "{expected}:\n{shown}");
    }
    let output = wirerate(&["bench", "ring", "--only", "pigeons"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: no work has \"pigeons\" in its name\n");
}

#[test]
fn the_driver_of_the_82599_is_measured_on_its_model() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("ixgbe.json");
    let output = wirerate(&[
        "bench",
        "ixgbe",
        "--rounds",
        "2",
        "--turns",
        "2",
        "--bursts",
        "1,256",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.contains("forward") && shown.contains("ixy.rs 100"), "{shown}");
    let figures: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let bursts = figures["bursts"].as_array().unwrap();
    assert_eq!(bursts.iter().map(|row| row["burst"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 256]);
    for row in bursts {
        assert!(row["forward"].as_f64().unwrap() > 0.0 && row["least"].as_f64() <= row["forward"].as_f64());
        assert_eq!(row["runs"]["forward"].as_array().unwrap().len(), 2);
    }
    assert_eq!(wirerate(&["bench", "ixgbe", "--bursts", "257"]).status.code(), Some(2));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wirerate"))
        .args(["doctor", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
