//! What was measured of a GPU's kernels, kept on disk: one small file for each adapter and driver.
//!
//! A file that is of another version or does not read is measured anew and overwritten; one that cannot be written costs the
//! next start some tenths of a second. Neither stops anybody, and both are logged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use syn1_kernels::engine::EngineError;
use syn1_kernels::gpu::{GpuDevice, Tuning};

/// Makes an engine with what is kept in `folder` of `device`'s tuning, and keeps what `make` adds to it. Engines are made
/// one at a time: two that measure at once would each find half a device.
///
/// # Errors
/// Those of `make`.
pub(crate) fn with_tuning<T>(
    device: &GpuDevice,
    folder: Option<&Path>,
    make: impl FnOnce(&mut Tuning) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let _one_at_a_time = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = folder.map(|folder| path(folder, device));
    let mut tuning = path.as_deref().map_or_else(|| Tuning::new(device), |path| load(path, device));
    let known = tuning.len();
    let made = make(&mut tuning)?;
    if let Some(path) = path.filter(|_| tuning.len() > known) {
        save(&path, &tuning);
    }
    Ok(made)
}

/// `<folder>/tuning/<adapter and driver>.txt`.
fn path(folder: &Path, device: &GpuDevice) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = device.identity().chars().map(plain).take(MOST_NAME).collect();
    folder.join("tuning").join(name + ".txt")
}

fn load(path: &Path, device: &GpuDevice) -> Tuning {
    let Ok(text) = fs::read_to_string(path) else { return Tuning::new(device) };
    Tuning::from_text(device, &text).unwrap_or_else(|error| {
        tracing::warn!("{} is ignored and kernels are measured anew: {error}", path.display());
        Tuning::new(device)
    })
}

/// Written beside and renamed: another process reads all of it or the one before.
fn save(path: &Path, tuning: &Tuning) {
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = folder.and_then(|()| fs::write(&beside, tuning.to_text())).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        tracing::warn!("{} cannot be written, so kernels are measured again next time: {error}", path.display());
    }
}

/// Held while an engine is made that may measure.
static MEASURING: Mutex<()> = Mutex::new(());

/// Characters of a file's name at most, without its ending: file systems have room for 255.
const MOST_NAME: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> GpuDevice {
        GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"))
    }

    /// A tuning with one choice.
    fn text(device: &GpuDevice) -> String {
        Tuning::new(device).to_text() + "96x96 f16 plain: 32 lanes, 4 groups, 8 rows, direct\n"
    }

    #[test]
    fn what_is_measured_is_there_the_next_time_and_nothing_is_written_where_nothing_is() {
        let (device, folder) = (device(), tempfile::tempdir().unwrap());
        let path = path(folder.path(), &device);
        with_tuning(&device, Some(folder.path()), |tuning| {
            assert!(tuning.is_empty());
            Ok(())
        })
        .unwrap();
        assert!(!path.exists());
        let measured = |tuning: &mut Tuning| {
            *tuning = Tuning::from_text(&device, &text(&device)).unwrap();
            Ok(())
        };
        with_tuning(&device, Some(folder.path()), measured).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&device));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no part is left");
        let known = |tuning: &mut Tuning| Ok(tuning.len());
        assert_eq!(with_tuning(&device, Some(folder.path()), known), Ok(1));
        assert_eq!(with_tuning(&device, None, known), Ok(0));
    }

    #[test]
    fn a_file_of_another_version_driver_or_kind_is_ignored() {
        let (device, folder) = (device(), tempfile::tempdir().unwrap());
        let path = path(folder.path(), &device);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let right = text(&device);
        let wrong = [
            String::new(),
            right.replace("tuning 1", "tuning 0"),
            right.replace("driver", "driver 0.1"),
            right.replace("8 rows", "7 rows"),
            right.clone() + "96x96 f16 plain\n",
        ];
        for text in wrong {
            fs::write(&path, &text).unwrap();
            assert!(load(&path, &device).is_empty(), "{text}");
        }
        fs::write(&path, &right).unwrap();
        assert_eq!(load(&path, &device).len(), 1);
    }

    #[test]
    fn an_engine_is_made_where_nothing_can_be_kept() {
        let (device, folder) = (device(), tempfile::tempdir().unwrap());
        // A file stands where the folder should be.
        fs::write(folder.path().join("tuning"), "").unwrap();
        let measured = |tuning: &mut Tuning| {
            *tuning = Tuning::from_text(&device, &text(&device)).unwrap();
            Ok(7)
        };
        assert_eq!(with_tuning(&device, Some(folder.path()), measured), Ok(7));
    }
}
