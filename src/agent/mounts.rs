//! The mounts this process sees, from /proc/self/mountinfo, as bytes.
//!
//! Invariants
//! * Mount points come out unescaped, also those that are not UTF-8.
//!
//! Never here: mounting and unmounting.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type.
    pub kind: Vec<u8>,
}

/// All mounts, in the order in which they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    let bytes = std::fs::read("/proc/self/mountinfo")?;
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The mounts strictly below one of `roots`, the latest first, which is the order to unmount them in.
pub fn below(roots: &[PathBuf]) -> io::Result<Vec<Mount>> {
    let mut found = read()?;
    found.retain(|mount| roots.iter().any(|root| is_below(&mount.point, root)));
    found.reverse();
    Ok(found)
}

fn is_below(point: &Path, root: &Path) -> bool {
    point != root && point.starts_with(root)
}

/// Fields: id, parent, device, root, mount point, options, optional fields up to `-`, type, source, super options.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.nth(4)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { point: PathBuf::from(OsString::from_vec(unescape(point))), kind: kind.to_vec() })
}

/// Undoes `\040` for space and the like.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = |digit: &u8| (b'0'..=b'7').contains(digit).then(|| u32::from(digit - b'0'));
        let code = match rest {
            [b'\\', a, b, c, ..] => octal(a).zip(octal(b)).zip(octal(c)).map(|((a, b), c)| a * 64 + b * 8 + c),
            _ => None,
        };
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// Bytes of a path, for evidence.
pub fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let line = b"36 35 98:0 /mnt1 /a\\040b\\134c\xff rw,noatime shared:1 master:2 - ext3 /dev/root rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point.as_os_str().as_bytes(), b"/a b\\c\xff");
        assert_eq!(mount.kind, b"ext3");
    }

    #[test]
    fn below_is_strict_and_by_component() {
        assert!(is_below(Path::new("/a/b"), Path::new("/a")));
        assert!(!is_below(Path::new("/a"), Path::new("/a")));
        assert!(!is_below(Path::new("/ab"), Path::new("/a")));
        assert!(read().unwrap().iter().any(|mount| mount.point == Path::new("/proc")));
    }
}
