//! Files that this process may have open: each link is one.

use anyhow::{Context, Result, bail};

/// Lets this process have `wanted` files open, as far as the system's hard limit goes.
///
/// # Errors
/// Where that is not far enough: both numbers, and what to do.
#[cfg(unix)]
pub(crate) fn allow(wanted: usize) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = wanted as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No number is no limit.
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if let Some(maximum) = maximum.filter(|maximum| *maximum < wanted) {
        bail!(
            "{wanted} files are to be open, the system allows {maximum}: raise it with `ulimit -Hn {wanted}` as root"
        );
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    raised.with_context(|| format!("cannot raise the limit of open files to {wanted}"))
}

/// As [`allow`], but what the system's hard limit allows is enough.
///
/// # Errors
/// Where the limit cannot be raised.
#[cfg(unix)]
pub(crate) fn allow_up_to(most: usize) -> Result<()> {
    use rustix::process::{Resource, getrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum.and_then(|maximum| usize::try_from(maximum).ok());
    allow(maximum.map_or(most, |maximum| maximum.min(most)))
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub(crate) fn allow_up_to(_: usize) -> Result<()> {
    Ok(())
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub(crate) fn allow(_: usize) -> Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_already_stays_and_more_than_the_system_has_is_refused_with_the_remedy() {
        use rustix::process::{Resource, getrlimit};
        let before = getrlimit(Resource::Nofile);
        allow(1).unwrap();
        allow_up_to(1).unwrap();
        assert_eq!(getrlimit(Resource::Nofile), before);
        if let Some(maximum) = before.maximum {
            let error = allow(maximum as usize + 1).unwrap_err().to_string();
            assert!(error.contains(&maximum.to_string()) && error.contains("ulimit"), "{error}");
            allow_up_to(maximum as usize + 1).unwrap();
            assert_eq!(getrlimit(Resource::Nofile).current, Some(maximum));
        }
    }
}
