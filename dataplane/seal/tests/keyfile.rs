//! The key file as operators meet it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use understudy_seal::keyfile::{add, generate, load, parse};

fn digits(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

fn refusal(text: &str) -> String {
    parse(text, Path::new("k")).expect_err(text).to_string()
}

#[test]
fn good_files() {
    let text = format!("# ours\n\n  {}  # since May\r\n{}", digits(1).to_uppercase(), digits(2));
    let ring = parse(&text, Path::new("k")).unwrap();
    let other = parse(&digits(1), Path::new("k")).unwrap();
    assert_eq!(ring.keys().len(), 2);
    assert_eq!(ring.sealing().id(), other.sealing().id());
    assert_ne!(ring.keys()[1].id(), ring.sealing().id());
    assert!(!format!("{ring:?}").contains("0101"), "secrets are not printed");
}

#[test]
fn bad_lines_are_named_and_not_shown() {
    let one = digits(1);
    for (text, place, what) in [
        (String::new(), "k:1: ", "there is no key; make one with: understudy key generate"),
        ("# only\n\n".into(), "k:2: ", "there is no key"),
        (format!("{one}\nabc\n"), "k:2: ", "64 hexadecimal digits"),
        (one[1..].into(), "k:1: ", "not a key"),
        (format!("{one}0"), "k:1: ", "not a key"),
        (format!("+{}", &one[1..]), "k:1: ", "not a key"),
        (format!("{}é", &one[2..]), "k:1: ", "not a key"),
        (format!("{one}\n{}\n{one}", digits(2)), "k:3: ", "as has the one of line 1"),
        ((1..=5).map(|n| digits(n) + "\n").collect(), "k:5: ", "one key too many"),
    ] {
        let message = refusal(&text);
        assert!(message.starts_with(place) && message.contains(what), "{text:?}: {message}");
        assert!(!message.contains(&one[4..]), "{message}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn made_added_to_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("cluster.key");
    let missing = load(&path).unwrap_err().to_string();
    assert!(missing.contains("understudy key generate"), "{missing}");
    assert!(add(&path, [9; 32]).is_err());
    let first = generate(&path, [1; 32]).unwrap();
    assert_eq!(mode(&path), 0o600);
    let again = generate(&path, [2; 32]).unwrap_err().to_string();
    assert!(again.contains("not overwritten") && again.contains("--add"), "{again}");
    let second = add(&path, [2; 32]).unwrap();
    assert_eq!(mode(&path), 0o600);
    let ids: Vec<u16> = load(&path).unwrap().keys().iter().map(|k| k.id()).collect();
    assert_eq!(ids, [first, second]);
    assert!(add(&path, [1; 32]).unwrap_err().to_string().contains("the id"));
    add(&path, [3; 32]).unwrap();
    add(&path, [4; 32]).unwrap();
    assert!(add(&path, [5; 32]).unwrap_err().to_string().contains("too many"));
    assert_eq!(load(&path).unwrap().keys().len(), 4);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.key");
    generate(&path, [1; 32]).unwrap();
    for bad in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bad)).unwrap();
        let message = load(&path).unwrap_err().to_string();
        assert!(message.contains("chmod 600"), "{message}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(load(&path).is_ok());
    assert!(load(dir.path()).is_err());
}
