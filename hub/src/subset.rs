//! One safetensors file with some of the tensors of others: which ranges of these it consists of, and its own header.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;

use crate::limits::MAX_HEADER_BYTES;

/// Bytes of the header's length, in front of it.
pub(crate) const LENGTH: u64 = 8;

/// What a safetensors file holds.
pub(crate) struct Header {
    metadata: Metadata,
    /// Where its tensors begin, in bytes of the file.
    start: u64,
}

/// A file to be: its beginning, and the ranges whose bytes follow, one behind the other.
pub(crate) struct Subset {
    /// The header with its length in front.
    pub(crate) head: Vec<u8>,
    /// The ranges; those of neighbouring tensors are one.
    pub(crate) runs: Vec<Run>,
    /// Bytes of the whole file.
    pub(crate) bytes: u64,
}

/// A range of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Which file.
    pub(crate) file: usize,
    /// Which of its bytes.
    pub(crate) range: Range<u64>,
}

/// A header as it is written: sorted, so that the same tensors give the same bytes.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "__metadata__")]
    about: &'a BTreeMap<&'static str, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

impl Header {
    /// The length that the first 8 bytes of a file of `size` bytes say.
    ///
    /// # Errors
    /// A text about one that no such file has.
    pub(crate) fn length(first: &[u8], size: u64) -> Result<u64, String> {
        let first: [u8; 8] = first.try_into().map_err(|_| "it has fewer than 8 bytes".to_owned())?;
        let length = u64::from_le_bytes(first);
        if length > MAX_HEADER_BYTES || length > size.saturating_sub(LENGTH) {
            return Err(format!(
                "its header claims {length} bytes, the limit is {}",
                MAX_HEADER_BYTES.min(size.saturating_sub(LENGTH))
            ));
        }
        Ok(length)
    }

    /// Reads the header of a file of `size` bytes: the tensors must follow each other without gaps up to its end.
    ///
    /// # Errors
    /// A text about what is wrong.
    pub(crate) fn parse(header: &[u8], size: u64) -> Result<Self, String> {
        // Reading it checks that the tensors follow each other and that sizes match shapes.
        let metadata: Metadata = serde_json::from_slice(header).map_err(|error| error.to_string())?;
        let start = LENGTH + header.len() as u64;
        let described = start.saturating_add(metadata.data_len() as u64);
        if described != size {
            return Err(format!("its header describes {described} bytes, it has {size}"));
        }
        Ok(Self { metadata, start })
    }

    /// The names of its tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }
}

impl Subset {
    /// The file with the tensors of `wanted`, which are in the files that `at` says; `about` goes into its header.
    ///
    /// # Errors
    /// A text about a tensor that is missing, or of another shape or type than a model can have.
    pub(crate) fn new(
        files: &[Header],
        at: &HashMap<String, usize>,
        wanted: &[(String, Vec<usize>)],
        about: &BTreeMap<&'static str, String>,
    ) -> Result<Self, String> {
        let mut found = Vec::new();
        for (name, shape) in wanted {
            let place = at.get(name).and_then(|file| Some((*file, files[*file].metadata.info(name)?)));
            let (file, info) = place.ok_or_else(|| format!("tensor {name} is missing"))?;
            if info.shape != *shape {
                return Err(format!("tensor {name} has shape {:?}; config.json expects {shape:?}", info.shape));
            }
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(format!(
                    "tensor {name} has elements of type {:?}; F32, F16 and BF16 can be read",
                    info.dtype
                ));
            }
            found.push((file, info.data_offsets.0, name.as_str(), info));
        }
        // In the order of the files, so that neighbours there are neighbours here.
        found.sort_by_key(|(file, start, ..)| (*file, *start));

        let (mut tensors, mut runs, mut end) = (BTreeMap::new(), Vec::<Run>::new(), 0);
        for (file, _, name, info) in found {
            let (from, to) = info.data_offsets;
            let data_offsets = (end, end + (to - from));
            end = data_offsets.1;
            tensors.insert(name, TensorInfo { dtype: info.dtype, shape: info.shape.clone(), data_offsets });
            let range = files[file].start + from as u64..files[file].start + to as u64;
            match runs.last_mut() {
                Some(run) if run.file == file && run.range.end == range.start => run.range.end = range.end,
                _ => runs.push(Run { file, range }),
            }
        }
        let mut header = serde_json::to_vec(&Written { about, tensors }).map_err(|error| error.to_string())?;
        // As the format has it, so that tensors are aligned.
        header.resize(header.len().next_multiple_of(8), b' ');
        let head = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let bytes = (head.len() + end) as u64;
        Ok(Self { head, runs, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

    /// Tensors of bytes that say where they are from, two F16 elements each.
    fn file(names: &[&str], dtype: Dtype) -> Vec<u8> {
        let data: Vec<Vec<u8>> = names.iter().map(|name| name.bytes().cycle().take(4).collect()).collect();
        let shape = vec![4 * 8 / dtype.bitsize()];
        let views =
            names.iter().zip(&data).map(|(name, data)| (*name, TensorView::new(dtype, shape.clone(), data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    fn header(bytes: &[u8]) -> Header {
        let length = Header::length(&bytes[..8], bytes.len() as u64).unwrap() as usize;
        Header::parse(&bytes[8..8 + length], bytes.len() as u64).unwrap()
    }

    fn at(files: &[Header]) -> HashMap<String, usize> {
        let of = |(index, header): (usize, &Header)| header.names().into_iter().map(move |name| (name, index));
        files.iter().enumerate().flat_map(of).collect()
    }

    fn wanted(names: &[&str]) -> Vec<(String, Vec<usize>)> {
        names.iter().map(|name| ((*name).to_owned(), vec![2])).collect()
    }

    #[test]
    fn neighbouring_tensors_are_one_range_and_the_result_is_a_safetensors_file() {
        let sources = [file(&["a", "b", "c", "d"], Dtype::F16), file(&["e", "f"], Dtype::BF16)];
        let files = [header(&sources[0]), header(&sources[1])];
        let about = BTreeMap::from([("format", "pt".to_owned())]);
        let subset = Subset::new(&files, &at(&files), &wanted(&["f", "d", "a", "b"]), &about).unwrap();
        assert_eq!(subset.runs.len(), 3, "{:?}", subset.runs);
        assert_eq!(subset.runs[0].range.end - subset.runs[0].range.start, 8);
        let mut bytes = subset.head.clone();
        for run in &subset.runs {
            bytes.extend(&sources[run.file][run.range.start as usize..run.range.end as usize]);
        }
        assert_eq!(bytes.len() as u64, subset.bytes);
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let found: Vec<_> = ["a", "b", "d", "f"].map(|name| parsed.tensor(name).unwrap().data().to_vec()).into();
        assert_eq!(found, [b"aaaa", b"bbbb", b"dddd", b"ffff"]);
        assert_eq!((parsed.len(), parsed.tensor("f").unwrap().dtype()), (4, Dtype::BF16));
    }

    #[test]
    fn a_missing_a_misshapen_and_an_unreadable_tensor_are_named() {
        let refusal = |dtype, name: &str, shape: &[usize]| {
            let files = [header(&file(&["a"], dtype))];
            let wanted = [(name.to_owned(), shape.to_vec())];
            Subset::new(&files, &at(&files), &wanted, &BTreeMap::new()).err().unwrap()
        };
        assert!(refusal(Dtype::F16, "b", &[2]).contains("b is missing"));
        let text = refusal(Dtype::F16, "a", &[3]);
        assert!(text.contains("[2]") && text.contains("[3]"), "{text}");
        assert!(refusal(Dtype::I32, "a", &[1]).contains("I32"));
    }

    #[test]
    fn a_header_that_lies_about_its_file_is_refused() {
        let bytes = file(&["a", "b"], Dtype::F16);
        let size = bytes.len() as u64;
        assert!(Header::length(&u64::MAX.to_le_bytes(), size).is_err());
        assert!(Header::length(&size.to_le_bytes(), size).is_err());
        assert!(Header::length(&bytes[..7], size).is_err());
        let length = Header::length(&bytes[..8], size).unwrap() as usize;
        for wrong in [size - 1, size + 1] {
            let text = Header::parse(&bytes[8..8 + length], wrong).err().unwrap();
            assert!(text.contains(&wrong.to_string()), "{text}");
        }
        assert!(Header::parse(b"<html>", 100).is_err());
    }
}
