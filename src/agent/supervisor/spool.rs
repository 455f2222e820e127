//! A stream of bytes in a folder, bounded, with offsets that stay true.
//!
//! The stream is cut into segments, each a file whose name is the offset of its first byte. A writer at its limit drops
//! the oldest segment; what it could not write (a full disk) leaves a gap. A reader that asks for dropped bytes gets the
//! next ones that are there, together with their offset. So nothing needs an index, and a crash needs no repair.
//!
//! Invariants
//! * A byte's offset never changes; the end is the sum of all that was appended, dropped or not.
//! * At most the limit and one segment are on disk.
//!
//! Never here: what the bytes are.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// Part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes; not empty.
    pub data: Vec<u8>,
}

/// Appends to a stream.
#[derive(Debug)]
pub(crate) struct Writer {
    folder: PathBuf,
    /// The segment being written, and the end that it will have when nothing is missing.
    current: Option<File>,
    begin: u64,
    end: u64,
    segment: u64,
    limit: u64,
}

impl Writer {
    /// Goes on at the end of the stream in `folder`, which is made if it is absent.
    pub(crate) fn open(folder: &Path, segment: u64, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let end = end(folder)?;
        Ok(Self { folder: folder.to_path_buf(), current: None, begin: end, end, segment, limit })
    }

    /// All bytes so far.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends. Bytes that cannot be written count as dropped, since whoever wrote them must not be stopped by that.
    pub(crate) fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = (self.begin + self.segment).saturating_sub(self.end);
            let part = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
            if part == 0 || self.current.is_none() {
                self.begin = self.end;
                self.current = self.next_segment().ok();
                let part = usize::try_from(self.segment).unwrap_or(usize::MAX).min(data.len());
                self.put(&data[..part]);
                data = &data[part..];
                continue;
            }
            self.put(&data[..part]);
            data = &data[part..];
        }
    }

    fn put(&mut self, data: &[u8]) {
        let written = self.current.as_mut().map(|file| file.write_all(data));
        self.end += data.len() as u64;
        if !matches!(written, Some(Ok(()))) {
            // The next append begins a segment at the true offset.
            self.current = None;
        }
    }

    fn next_segment(&self) -> io::Result<File> {
        let segments = segments(&self.folder)?;
        let keep = (self.limit / self.segment).max(1);
        let surplus = (segments.len() as u64 + 1).saturating_sub(keep);
        for begin in segments.iter().take(usize::try_from(surplus).unwrap_or(usize::MAX)) {
            fs::remove_file(path_of(&self.folder, *begin))?;
        }
        OpenOptions::new().create(true).append(true).open(path_of(&self.folder, self.begin))
    }
}

/// The end of the stream: how many bytes were ever appended, as far as they are on disk.
pub(crate) fn end(folder: &Path) -> io::Result<u64> {
    let Some(last) = segments(folder)?.pop() else { return Ok(0) };
    Ok(last + fs::metadata(path_of(folder, last))?.len())
}

/// Up to `max` bytes from `offset` on, or from the next offset that is still there. `None`: nothing yet.
pub(crate) fn read(folder: &Path, offset: u64, max: usize) -> io::Result<Option<Chunk>> {
    // A segment may be dropped between listing and reading; each round then begins later in the stream.
    'listing: loop {
        let segments = segments(folder)?;
        let first = segments.partition_point(|begin| *begin <= offset).saturating_sub(1);
        for begin in &segments[first.min(segments.len())..] {
            let from = offset.max(*begin);
            let mut file = match File::open(path_of(folder, *begin)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue 'listing,
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(from - begin))?;
            let mut data = Vec::new();
            file.take(max as u64).read_to_end(&mut data)?;
            if !data.is_empty() {
                return Ok(Some(Chunk { offset: from, data }));
            }
        }
        return Ok(None);
    }
}

/// Drops segments that lie wholly before `offset`, all but the last, whose name holds the stream's end.
pub(crate) fn trim(folder: &Path, offset: u64) -> io::Result<()> {
    for pair in segments(folder)?.windows(2) {
        if pair[1] <= offset {
            fs::remove_file(path_of(folder, pair[0]))?;
        }
    }
    Ok(())
}

/// Where the first byte that is still there stands.
pub(crate) fn begin(folder: &Path) -> io::Result<u64> {
    Ok(segments(folder)?.first().copied().unwrap_or(0))
}

fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    let mut begins: Vec<u64> = names.collect();
    begins.sort_unstable();
    Ok(begins)
}

fn path_of(folder: &Path, begin: u64) -> PathBuf {
    folder.join(format!("{begin:020}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(folder: &Path, mut offset: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        while let Some(chunk) = read(folder, offset, 7).unwrap() {
            offset = chunk.offset + chunk.data.len() as u64;
            chunks.push(chunk);
        }
        chunks
    }

    #[test]
    fn the_oldest_bytes_go_first_and_offsets_stay() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        let mut writer = Writer::open(folder.path(), 10, 30).unwrap();
        for part in bytes.chunks(9) {
            writer.append(part);
        }
        assert_eq!((writer.end(), end(folder.path()).unwrap()), (100, 100));
        let chunks = all(folder.path(), 0);
        assert!(chunks[0].offset >= 70, "at most three segments are kept");
        for chunk in &chunks {
            let from = usize::try_from(chunk.offset).unwrap();
            assert_eq!(chunk.data, bytes[from..from + chunk.data.len()]);
        }
        assert_eq!(chunks.last().map(|chunk| chunk.offset + chunk.data.len() as u64), Some(100));
    }

    #[test]
    fn a_writer_goes_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        Writer::open(folder.path(), 10, 1000).unwrap().append(b"hello ");
        Writer::open(folder.path(), 10, 1000).unwrap().append(b"world, again");
        let text: Vec<u8> = all(folder.path(), 0).into_iter().flat_map(|chunk| chunk.data).collect();
        assert_eq!(text, b"hello world, again");
        trim(folder.path(), 100).unwrap();
        assert_eq!(end(folder.path()).unwrap(), 18, "the end outlives trimming");
        assert_eq!(read(folder.path(), 18, 10).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_written_is_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&folder.path().join("s"), 10, 100).unwrap();
        writer.append(b"abc");
        fs::rename(folder.path().join("s"), folder.path().join("away")).unwrap();
        writer.append(b"0123456789ABC");
        fs::rename(folder.path().join("away"), folder.path().join("s")).unwrap();
        writer.append(b"xyz");
        assert_eq!(writer.end(), 19);
        let chunks = all(&folder.path().join("s"), 0);
        assert_eq!(chunks.first().unwrap().data, b"abc0123");
        assert_eq!(chunks.last().unwrap(), &Chunk { offset: 16, data: b"xyz".to_vec() });
    }
}
