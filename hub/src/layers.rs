//! Only what a node needs for some layers: the ranges of the files that hold their tensors, as one file.
//!
//! A hash of a whole file says nothing about a part of it. What is checked instead: the commit and the hash that the hub
//! names with each answer (a web server: its ETag or date) stay the same, lengths are as promised, each header describes
//! exactly its file, tensors have the shapes that `config.json` asks for. TLS vouches for the bytes between.
//! Of a tied head's matrix that a file has a second time only the embedding is fetched: that the two are equal is not
//! checked.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use syn1_model::weights::SINGLE;
use syn1_model::{Source, SourceError, Spec, layer_tensors};

use crate::check::Check;
use crate::error::{HubError, failed};
use crate::files::{Files, Index, RemoteFile, Weights};
use crate::meter::{Meter, Watch};
use crate::origin::Origin;
use crate::part::{Part, Sink};
use crate::place::Place;
use crate::pull::{Pulled, check_index};
use crate::subset::{Header, LENGTH, Subset};

/// Fetches what a node needs that holds `layers` into a folder: the small files, and one `model.safetensors` with only
/// these layers' tensors (the embedding comes with the first layer, the final norm and the head with the last), which
/// [`Source::open_layers`] opens. A run that was cut goes on at the byte where it ended, if the files are still the same.
///
/// # Errors
/// As for [`to_folder`](crate::to_folder); layers that the model does not have; a tensor that is missing or has another
/// shape than `config.json` says; a server that sends only whole files.
pub fn layers_to_folder(
    origin: &Origin,
    layers: Range<usize>,
    folder: &Path,
    watch: &Watch<'_>,
) -> Result<Pulled, HubError> {
    let meter = Meter::new(watch);
    let Files { small, weights } = Files::find(origin, &meter)?;
    let place = Place::Folder(folder);
    small.iter().for_each(|file| meter.expect(file.size));
    for file in &small {
        place.put(origin, file, &meter)?;
    }
    let spec = Spec::from_folder(folder).map_err(SourceError::from)?;
    let sources = Sources::read(origin, weights, &spec, &layers, &meter)?;
    let subset = sources.subset(origin, &spec, &layers)?;
    fill(origin, &sources.files, &subset, &folder.join(SINGLE), &meter)?;
    Source::open_layers(folder, layers)?;

    let mut files: Vec<String> = small.iter().map(|file| file.name.clone()).collect();
    let mut unhashed: Vec<String> =
        small.iter().filter(|file| file.check == Check::Length).map(|file| file.name.clone()).collect();
    files.push(SINGLE.into());
    unhashed.push(SINGLE.into());
    let (fetched_bytes, reused_bytes) = meter.sums();
    let (folder, commit) = (folder.to_owned(), origin.commit().map(str::to_owned));
    Ok(Pulled { folder, commit, files, unhashed, fetched_bytes, reused_bytes })
}

/// The files that hold the tensors, and what their headers say.
struct Sources {
    files: Vec<RemoteFile>,
    headers: Vec<Header>,
    /// Which of them holds which tensor.
    at: HashMap<String, usize>,
}

impl Sources {
    fn read(
        origin: &Origin,
        weights: Weights,
        spec: &Spec,
        layers: &Range<usize>,
        meter: &Meter<'_>,
    ) -> Result<Self, HubError> {
        match weights {
            Weights::Single(file) => {
                let header = read_header(origin, &file, meter)?;
                let at = header.names().into_iter().map(|name| (name, 0)).collect();
                Ok(Self { files: vec![file], headers: vec![header], at })
            }
            Weights::Sharded(index) => {
                let index = read_index(origin, &index, meter)?;
                let wanted = layer_tensors(spec, layers.clone(), index.weight_map.keys().map(String::as_str))?;
                let is_wanted = |tensor: &str| wanted.iter().any(|(name, _)| name == tensor);
                let files = index.shards(origin, meter, is_wanted)?;
                let headers = files.iter().map(|file| read_header(origin, file, meter)).collect::<Result<_, _>>()?;
                let place = |shard: &String| files.iter().position(|file| file.name == *shard);
                let at =
                    index.weight_map.iter().filter_map(|(name, shard)| Some((name.clone(), place(shard)?))).collect();
                Ok(Self { files, headers, at })
            }
        }
    }

    fn subset(&self, origin: &Origin, spec: &Spec, layers: &Range<usize>) -> Result<Subset, HubError> {
        let wanted = layer_tensors(spec, layers.clone(), self.at.keys().map(String::as_str))?;
        // Whoever finds the file can tell what it is; and a part of it with another beginning is not resumed.
        let version = |file: &RemoteFile| file.check.name().or_else(|| file.version.clone());
        let versions: Option<Vec<String>> = self.files.iter().map(version).collect();
        let about = BTreeMap::from([
            ("format", "pt".to_owned()),
            ("syn1.layers", format!("{}..{}", layers.start, layers.end)),
            ("syn1.origin", origin.whose().to_owned()),
            ("syn1.versions", versions.unwrap_or_default().join(",")),
        ]);
        Subset::new(&self.headers, &self.at, &wanted, &about).map_err(|reason| {
            let names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
            HubError::Content { file: names.join(", "), whose: origin.whose().into(), reason }
        })
    }
}

fn read_index(origin: &Origin, file: &RemoteFile, meter: &Meter<'_>) -> Result<Index, HubError> {
    check_index(origin, file)?;
    let bytes = origin.read(file, 0..file.size, meter)?;
    let mut hasher = file.check.hasher(file.size);
    hasher.update(&bytes);
    match (hasher.finish(), file.check.name()) {
        (Some(got), Some(want)) if got != want => {
            let (name, url) = (file.name.clone(), file.url.clone());
            Err(HubError::Hash { file: name, url, kind: file.check.kind(), got, want })
        }
        _ => Index::parse(&bytes, origin),
    }
}

fn read_header(origin: &Origin, file: &RemoteFile, meter: &Meter<'_>) -> Result<Header, HubError> {
    let wrong = |reason| HubError::Content { file: file.name.clone(), whose: origin.whose().into(), reason };
    let first = origin.read(file, 0..LENGTH.min(file.size), meter)?;
    let length = Header::length(&first, file.size).map_err(wrong)?;
    let header = origin.read(file, LENGTH..LENGTH + length, meter)?;
    Header::parse(&header, file.size).map_err(wrong)
}

/// Writes the file, or the rest of it.
fn fill(
    origin: &Origin,
    files: &[RemoteFile],
    subset: &Subset,
    target: &Path,
    meter: &Meter<'_>,
) -> Result<(), HubError> {
    let mut base = subset.head.len() as u64;
    meter.expect(subset.bytes - base);
    if is_there(target, subset)? {
        meter.kept(SINGLE, subset.bytes - base);
        return Ok(());
    }
    let mut part = Part::open(target, subset.bytes, &Check::Length)?;
    // Without a mark of their version nothing tells whether the files are still the same.
    let marked = files.iter().all(|file| file.check.name().is_some() || file.version.is_some());
    if !(marked && part.begins_with(&subset.head)?) {
        part.cut(0)?;
        part.append(&subset.head)?;
    }
    meter.kept(SINGLE, part.len() - base);
    for run in &subset.runs {
        let length = run.range.end - run.range.start;
        if part.len() < base + length {
            origin.fetch(&files[run.file], run.range.clone(), &mut part, base, meter)?;
        }
        base += length;
    }
    part.finish(target)
}

/// Whether the file is there from an earlier run.
fn is_there(target: &Path, subset: &Subset) -> Result<bool, HubError> {
    let file = match File::open(target) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("open", target)(error)),
    };
    let mut head = Vec::new();
    let read = failed("read", target);
    (&file).take(subset.head.len() as u64).read_to_end(&mut head).map_err(&read)?;
    if head == subset.head && fs::metadata(target).map_err(&read)?.len() == subset.bytes {
        return Ok(true);
    }
    Err(HubError::Taken { path: target.into() })
}
