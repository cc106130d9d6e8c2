use std::{fs, path::PathBuf};

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};

use super::*;

const KIND: [u8; 8] = *b"bundle\0\0";
const OTHER: [u8; 8] = *b"results\0";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// splitmix64 from a fixed seed.
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn contents() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("header", random_bytes(1, 100)),
        ("empty", Vec::new()),
        ("exactly-one-line-of-64--", random_bytes(2, 64)),
        ("weights", random_bytes(3, 777)),
    ]
}

fn write(path: &std::path::Path, signed: bool) -> FileInfo {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key().to_bytes();
    let sign = |message: &[u8]| Ok(key.sign(message).to_bytes());
    let mut writer = ContainerWriter::create(path, KIND).unwrap();
    for (name, content) in contents() {
        writer.begin_section(name).unwrap();
        for piece in content.chunks(13) {
            writer.write(piece).unwrap();
        }
        writer.end_section().unwrap();
    }
    writer.finish(signed.then_some((&public, &sign as SignFn))).unwrap()
}

#[test]
fn what_is_written_is_read_back_mapped_or_from_memory() {
    let folder = Folder::new();
    for signed in [false, true] {
        let path = folder.path("model.srb");
        let info = write(&path, signed);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(info.bytes, bytes.len() as u64);
        assert_eq!(info.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        for container in [Container::open(&path, KIND).unwrap(), Container::from_bytes(bytes, KIND).unwrap()] {
            container.verify_all().unwrap();
            // Again once it has left the memory.
            for _ in 0..2 {
                for (name, content) in contents() {
                    assert_eq!(container.section(name).unwrap(), content);
                }
                container.release();
            }
            let listed: Vec<_> = container.sections().map(|(name, length)| (name.to_owned(), length)).collect();
            let expected: Vec<_> = contents().into_iter().map(|(name, c)| (name.to_owned(), c.len() as u64)).collect();
            assert_eq!(listed, expected);
            assert_eq!(container.signer().is_some(), signed);
            assert!(matches!(container.section("none"), Err(ContainerError::MissingSection { .. })));
        }
        let container = Container::open(&path, KIND).unwrap();
        assert_eq!(container.section("weights").unwrap().as_ptr() as usize % 64, 0);
    }
    assert_eq!(folder.names(), ["model.srb"], "no temporary file is left");
}

#[test]
fn every_flipped_bit_of_a_file_is_detected() {
    let folder = Folder::new();
    for signed in [false, true] {
        let path = folder.path("model.srb");
        write(&path, signed);
        let good = fs::read(&path).unwrap();
        for position in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            let result = Container::from_bytes(bytes, KIND).and_then(|container| container.verify_all());
            assert!(result.is_err(), "bit {position} (signed: {signed}) went unnoticed");
        }
    }
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    let folder = Folder::new();
    let path = folder.path("model.srb");
    write(&path, true);
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        let error = Container::from_bytes(good[..length].to_vec(), KIND).unwrap_err();
        match length {
            0 => assert!(matches!(error, ContainerError::Empty { .. }), "{error}"),
            _ => assert!(matches!(error, ContainerError::Truncated { .. }), "{length}: {error}"),
        }
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(matches!(Container::from_bytes(longer, KIND), Err(ContainerError::TrailingBytes { .. })));
}

#[test]
fn each_kind_of_wrong_file_has_its_own_text() {
    let folder = Folder::new();
    let path = folder.path("model.srb");
    write(&path, true);
    let good = fs::read(&path).unwrap();
    let open = |name: &str, bytes: &[u8], kind| {
        let path = folder.path(name);
        fs::write(&path, bytes).unwrap();
        let text = Container::open(&path, kind).and_then(|found| found.verify_all()).unwrap_err().to_string();
        text.replace(&format!("{}/", folder.0.path().display()), "")
    };
    assert_eq!(
        open("none.srb", &[], KIND),
        "none.srb is empty: whatever wrote or copied it did not finish; fetch the file again"
    );
    assert_eq!(
        open("photo.png", &[0x89, b'P', b'N', b'G', 1, 2, 3, 4, 5], KIND),
        "photo.png is not a Subrosa file: it does not begin with the format's mark"
    );
    assert_eq!(
        open("model.srb", &good, OTHER),
        "model.srb is a Subrosa file of kind 'bundle', but one of kind 'results' is needed here"
    );
    assert_eq!(
        open("half.srb", &good[..good.len() / 2], KIND),
        format!("half.srb is cut short: it has {} bytes of {}; fetch the file again", good.len() / 2, good.len())
    );
    let mut newer = good.clone();
    newer[8] = 2;
    assert_eq!(
        open("newer.srb", &newer, KIND),
        "newer.srb has container format version 2, and this program reads versions up to 1: update the program"
    );
    let mut damaged = good.clone();
    let weights = good.windows(777).position(|window| window == random_bytes(3, 777)).unwrap();
    damaged[weights + 5] ^= 1;
    assert_eq!(
        open("damaged.srb", &damaged, KIND),
        "damaged.srb: section 'weights' is damaged (its SHA-256 does not match): fetch the file again"
    );
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(
        open("forged.srb", &forged, KIND),
        "forged.srb: its signature is not valid: the file was changed after signing; fetch it from its owner again"
    );
    let directory = Container::open(folder.0.path(), KIND).unwrap_err();
    assert!(matches!(directory, ContainerError::NotAFile { .. }), "{directory}");
    let absent = Container::open(&folder.path("absent.srb"), KIND).unwrap_err();
    assert!(absent.to_string().contains("absent.srb: cannot open the file"), "{absent}");
}

/// An attacker can recompute hashes and the seal, but neither moves sections nor swaps content under the old signature.
#[test]
fn a_resealed_change_of_a_signed_file_fails_the_signature() {
    let folder = Folder::new();
    let path = folder.path("model.srb");
    write(&path, true);
    let mut bytes = fs::read(&path).unwrap();
    let count = contents().len();
    let table_offset = bytes.len() - format::SIGNER_LENGTH - format::SEAL_LENGTH - count * format::ENTRY_LENGTH;
    let first = table_offset + 40;
    bytes[64] ^= 1;
    let digest: [u8; 32] = Sha256::digest(&bytes[64..164]).into();
    bytes[first..first + 32].copy_from_slice(&digest);
    let seal_at = table_offset + count * format::ENTRY_LENGTH;
    let seal = format::seal(&bytes[..64], &bytes[table_offset..seal_at]);
    bytes[seal_at..seal_at + 32].copy_from_slice(&seal);
    let error = Container::from_bytes(bytes, KIND).unwrap_err();
    assert!(matches!(error, ContainerError::BadSignature { .. }), "{error}");
}

#[test]
fn a_table_that_lies_is_refused_even_with_a_valid_seal() {
    let folder = Folder::new();
    let path = folder.path("model.srb");
    write(&path, false);
    let good = fs::read(&path).unwrap();
    let count = contents().len();
    let table_offset = good.len() - format::SEAL_LENGTH - count * format::ENTRY_LENGTH;
    let forge = |entry: usize, at: usize, field: &[u8]| {
        let mut bytes = good.clone();
        let start = table_offset + entry * format::ENTRY_LENGTH + at;
        bytes[start..start + field.len()].copy_from_slice(field);
        let seal_at = table_offset + count * format::ENTRY_LENGTH;
        let seal = format::seal(&bytes[..64], &bytes[table_offset..seal_at]);
        bytes[seal_at..].copy_from_slice(&seal);
        Container::from_bytes(bytes, KIND).map(|_| ())
    };
    assert!(forge(0, 24, &64u64.to_le_bytes()).is_ok(), "the forgery's own arithmetic is right");
    let lies: [(usize, usize, &[u8]); 7] = [
        (3, 24, &0u64.to_le_bytes()),         // offset inside the header
        (3, 24, &u64::MAX.to_le_bytes()),     // offset beyond everything
        (3, 32, &u64::MAX.to_le_bytes()),     // length that overflows
        (3, 32, &(1u64 << 40).to_le_bytes()), // length past the table
        (3, 32, &0u64.to_le_bytes()),         // a gap before the table
        (1, 0, b"header\0"),                  // a name used twice
        (1, 0, b"\0mpty"),                    // no name
    ];
    for (entry, at, field) in lies {
        assert!(matches!(forge(entry, at, field), Err(ContainerError::Damaged { .. })), "entry {entry} at {at}");
    }
}

#[test]
fn an_unfinished_writer_leaves_the_old_file_and_nothing_else() {
    let folder = Folder::new();
    let path = folder.path("model.srb");
    let info = write(&path, true);
    let mut writer = ContainerWriter::create(&path, KIND).unwrap();
    writer.add_section("half", &[1; 1000]).unwrap();
    drop(writer);
    let refuse = |_: &[u8]| Err("the vault is locked".into());
    let mut writer = ContainerWriter::create(&path, KIND).unwrap();
    writer.add_section("half", &[1; 1000]).unwrap();
    let error = writer.finish(Some((&[9; 32], &refuse))).unwrap_err();
    assert!(error.to_string().ends_with("cannot be signed: the vault is locked"), "{error}");
    let forge = |_: &[u8]| Ok([0; 64]);
    let writer = ContainerWriter::create(&path, KIND).unwrap();
    assert!(matches!(writer.finish(Some((&[9; 32], &forge))), Err(ContainerError::Signing { .. })));
    assert_eq!(folder.names(), ["model.srb"]);
    assert_eq!(<[u8; 32]>::from(Sha256::digest(fs::read(&path).unwrap())), info.sha256);
}

#[test]
fn a_writer_used_out_of_order_says_so() {
    let folder = Folder::new();
    let mut writer = ContainerWriter::create(&folder.path("model.srb"), KIND).unwrap();
    let misuse = |result: Result<(), ContainerError>| assert!(matches!(result, Err(ContainerError::Misuse { .. })));
    misuse(writer.write(&[1]));
    misuse(writer.end_section());
    for name in ["", "with space", "line\n", "ä", "a-name-longer-than-24-byte"] {
        misuse(writer.begin_section(name));
    }
    writer.add_section("a", &[]).unwrap();
    misuse(writer.begin_section("a"));
    writer.begin_section("b").unwrap();
    misuse(writer.begin_section("c"));
    misuse(writer.finish(None).map(|_| ()));
    assert!(ContainerWriter::create(folder.0.path(), KIND).is_err(), "a directory is no target");
    if cfg!(unix) {
        let device = ContainerWriter::create(std::path::Path::new("/dev/null"), KIND);
        assert!(device.is_err(), "a rename would replace the device");
    }
    let absent = ContainerWriter::create(&folder.path("no/such/x.srb"), KIND).err().unwrap().to_string();
    assert!(absent.contains("no/such/x.srb: cannot create the file"), "{absent}");
}

#[test]
fn a_public_key_file_is_read_back_and_anything_else_is_refused() {
    let signer = Signer { public_key: SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes() };
    let line = signer.to_file_text("work\nlaptop");
    assert!(line.starts_with("subrosa-owner-ed25519 ") && line.ends_with("= work laptop\n"), "{line}");
    assert_eq!(Signer::parse(&line).unwrap(), signer);
    assert_eq!(Signer::parse(&format!("# the owner's\r\n\r\n  {line}")).unwrap(), signer);
    let groups: Vec<_> = signer.fingerprint().split('-').map(str::len).collect::<Vec<_>>();
    assert_eq!(groups, [4; 8]);

    assert!(matches!(Signer::parse("# nothing\n"), Err(SignerError::Empty)));
    assert!(matches!(Signer::parse(&format!("{line}{line}")), Err(SignerError::SeveralKeys)));
    assert!(matches!(Signer::parse("ssh-ed25519 AAAA me"), Err(SignerError::NotAKey)));
    for damaged in
        [line.replacen('=', "", 1), "subrosa-owner-ed25519".to_owned(), "subrosa-owner-ed25519 AAAA".to_owned()]
    {
        assert!(matches!(Signer::parse(&damaged), Err(SignerError::Damaged)), "{damaged}");
    }
    // A small-order point would accept signatures that nobody made.
    let weak = Signer {
        public_key: {
            let mut one = [0; 32];
            one[0] = 1;
            one
        },
    };
    assert!(matches!(Signer::parse(&weak.to_file_text("")), Err(SignerError::Damaged)));

    let folder = Folder::new();
    fs::write(folder.path("owner.pub"), "junk").unwrap();
    let text = Signer::read(&folder.path("owner.pub")).unwrap_err().to_string();
    assert!(text.contains("owner.pub: it is not an owner's public key"), "{text}");
    assert!(matches!(Signer::read(&folder.path("absent.pub")), Err(SignerError::Unreadable { .. })));
}
