//! Who may join: nodes with a listed key, and nodes with the join code.
//!
//! SYN1 has no field for a code, and its messages stay as they are: a code travels in the WebSocket's request (`transport-ws`), so
//! a node that joins by plain TCP needs a listed key. A node that came in by the code may come back by its key when the code
//! has expired: a phone that was asleep should not need a new one.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syn1_identity::{Key, KeyFileError};

use crate::code::Code;
use crate::limits::{GUESS_WINDOW, GUESSES, MAX_GUESSERS, MAX_MEMBERS};

/// The join code that nodes need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JoinCode {
    /// None: any node may join, or those with a listed key where some are listed.
    #[default]
    None,
    /// A new one whenever the last one has expired.
    Auto {
        /// How long one lasts.
        lasts: Duration,
    },
    /// One that a person chose.
    Chosen {
        /// The code.
        code: Code,
        /// How long it lasts.
        lasts: Duration,
    },
}

/// Lets nodes in or not. Time is that since the coordinator's start.
pub(crate) struct Door {
    allow: Vec<Key>,
    state: Mutex<State>,
}

struct State {
    code: Option<Current>,
    /// Keys that came in by a code.
    members: HashSet<Key>,
    /// Wrong codes by address, each with the time of the first.
    guesses: HashMap<IpAddr, (Duration, u32)>,
}

struct Current {
    code: Code,
    until: Duration,
    /// How long the next one will last; nothing if there is no next one.
    again: Option<Duration>,
}

/// What a node said at the door, judged as far as that is possible before its key is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Knock {
    /// It may come in.
    Welcome,
    /// It has the code: its key will be remembered.
    Code,
    /// It needs a listed key.
    Key,
    /// It may come in only if its key is known; else it is told this.
    Refused(String),
}

impl Door {
    pub(crate) fn new(allow: Vec<Key>, code: JoinCode) -> Result<Self, KeyFileError> {
        let code = match code {
            JoinCode::None => None,
            JoinCode::Auto { lasts } => Some(Current { code: Code::generate()?, until: lasts, again: Some(lasts) }),
            JoinCode::Chosen { code, lasts } => Some(Current { code, until: lasts, again: None }),
        };
        let state = State { code, members: HashSet::new(), guesses: HashMap::new() };
        Ok(Self { allow, state: Mutex::new(state) })
    }

    /// Whether a node without a key can be turned away before it has said anything else.
    pub(crate) fn needs_key(&self) -> bool {
        !self.allow.is_empty() && !self.needs_code()
    }

    /// Whether nodes need a code, be it one that has expired.
    pub(crate) fn needs_code(&self) -> bool {
        self.lock().code.is_some()
    }

    /// The code at `now` and how long it still lasts; a chosen one that has expired is none.
    pub(crate) fn code(&self, now: Duration) -> Option<(Code, Duration)> {
        let mut state = self.lock();
        let current = state.code.as_mut()?;
        current.renew(now);
        let left = current.until.checked_sub(now).filter(|left| !left.is_zero())?;
        Some((current.code.clone(), left))
    }

    /// A node comes by plain TCP.
    pub(crate) fn knock_tcp(&self, peer: IpAddr) -> Knock {
        // Whoever runs programs on this machine can read the code as well.
        let is_here = peer.to_canonical().is_loopback();
        match (self.needs_code(), self.allow.is_empty()) {
            (false, false) => Knock::Key,
            (false, true) => Knock::Welcome,
            (true, true) if is_here => Knock::Welcome,
            (true, _) => Knock::Refused(NO_CODE_BY_TCP.into()),
        }
    }

    /// A node comes by WebSocket, with what it takes for the code.
    pub(crate) fn knock(&self, now: Duration, peer: IpAddr, offered: Option<&str>) -> Knock {
        let mut state = self.lock();
        let State { code, guesses, .. } = &mut *state;
        let Some(current) = code else {
            return if self.allow.is_empty() { Knock::Welcome } else { Knock::Key };
        };
        let Some(offered) = offered else {
            return Knock::Refused("a join code is needed: use the whole link that the coordinator prints".into());
        };
        let peer = network(peer);
        guesses.retain(|_, (since, _)| now.saturating_sub(*since) < GUESS_WINDOW);
        let wrong = guesses.get(&peer).map_or(0, |(_, wrong)| *wrong);
        // What is not looked at cannot be guessed, right or wrong.
        if wrong >= GUESSES || (wrong == 0 && guesses.len() >= MAX_GUESSERS) {
            let seconds = GUESS_WINDOW.as_secs();
            return Knock::Refused(format!("too many wrong join codes came from this address: wait {seconds} s"));
        }
        current.renew(now);
        if !current.code.is(offered) {
            guesses.entry(peer).or_insert((now, 0)).1 += 1;
            return Knock::Refused(
                "the join code is wrong or has expired: ask for the one that the coordinator shows now".into(),
            );
        }
        if current.until <= now {
            return Knock::Refused(
                "the join code has expired: the coordinator has to be started with another one".into(),
            );
        }
        Knock::Code
    }

    /// Whether the node that knocked so may come in, now that its key is known if it has proven one.
    pub(crate) fn admit(&self, knock: &Knock, key: Option<Key>) -> Result<(), String> {
        let mut state = self.lock();
        if key.is_some_and(|key| self.allow.contains(&key) || state.members.contains(&key)) {
            return Ok(());
        }
        match (knock, key) {
            (Knock::Code, Some(key)) if state.members.len() < MAX_MEMBERS => {
                state.members.insert(key);
                Ok(())
            }
            (Knock::Welcome | Knock::Code, _) => Ok(()),
            (Knock::Refused(why), _) => Err(why.clone()),
            (Knock::Key, key) => {
                let key = key.map_or_else(|| String::from("no key"), |key| format!("key {key}"));
                Err(format!("it has {key}, which may not join: `--allow` names those that may"))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Makes a new code where this one has expired and there is to be another one.
    fn renew(&mut self, now: Duration) {
        // Without random numbers the old one stays expired.
        if let (true, Some(lasts), Ok(code)) = (self.until <= now, self.again, Code::generate()) {
            (self.code, self.until) = (code, now + lasts);
        }
    }
}

/// What one guesser can change at will does not make two of him: an IPv6 network's hosts count as one.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

const NO_CODE_BY_TCP: &str = "a join code is needed, which tcp:// does not carry: join by the link that the coordinator \
                              prints, or have this node's key listed there by `--allow`";

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn door(allow: &[Key], code: JoinCode) -> Door {
        Door::new(allow.to_vec(), code).unwrap()
    }

    fn with_code(code: &str) -> Door {
        door(&[], JoinCode::Chosen { code: code.parse().unwrap(), lasts: HOUR })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 1, last])
    }

    #[test]
    fn without_code_and_list_everybody_is_welcome() {
        let door = door(&[], JoinCode::None);
        for knock in [door.knock_tcp(ip(1)), door.knock(HOUR, ip(1), None), door.knock(HOUR, ip(1), Some("x"))] {
            assert_eq!((door.admit(&knock, None), knock), (Ok(()), Knock::Welcome));
        }
    }

    #[test]
    fn a_listed_key_opens_every_door_and_another_one_is_named() {
        let (friend, stranger) = (Key([1; 32]), Key([2; 32]));
        let door = door(&[friend], JoinCode::None);
        assert!(door.needs_key());
        for knock in [door.knock_tcp(ip(1)), door.knock(HOUR, ip(1), None)] {
            assert_eq!(door.admit(&knock, Some(friend)), Ok(()));
            assert!(door.admit(&knock, Some(stranger)).unwrap_err().contains(&stranger.to_string()));
            assert!(door.admit(&knock, None).unwrap_err().contains("no key"));
        }
    }

    #[test]
    fn the_code_lets_in_and_the_key_that_came_with_it_may_return_when_it_has_expired() {
        let (door, phone) = (with_code("abc-def"), Key([3; 32]));
        let knock = door.knock(Duration::ZERO, ip(1), Some("ABCDEF"));
        assert_eq!(door.admit(&knock, Some(phone)), Ok(()));
        let late = door.knock(HOUR, ip(1), Some("ABCDEF"));
        assert_eq!(door.admit(&late, Some(phone)), Ok(()));
        assert!(door.admit(&late, Some(Key([4; 32]))).unwrap_err().contains("has expired"));
        assert_eq!(door.code(HOUR), None);
        // Nobody has proven that key.
        assert!(door.admit(&late, None).is_err());
    }

    #[test]
    fn a_code_of_the_coordinators_own_is_followed_by_another_one() {
        let door = door(&[], JoinCode::Auto { lasts: HOUR });
        let (first, left) = door.code(HOUR / 2).unwrap();
        assert_eq!(left, HOUR / 2);
        let (second, left) = door.code(HOUR).unwrap();
        assert_eq!(left, HOUR);
        assert_ne!(first, second);
        assert!(matches!(door.knock(HOUR, ip(1), Some(&first.to_string())), Knock::Refused(_)));
        assert_eq!(door.knock(HOUR, ip(1), Some(&second.to_string())), Knock::Code);
    }

    #[test]
    fn with_a_code_plain_tcp_is_for_this_machine_and_for_listed_keys() {
        let door = with_code("abcdef");
        assert_eq!(door.knock_tcp("127.0.0.1".parse().unwrap()), Knock::Welcome);
        assert_eq!(door.knock_tcp("::ffff:127.0.0.1".parse().unwrap()), Knock::Welcome);
        let why = door.admit(&door.knock_tcp(ip(1)), Some(Key([5; 32]))).unwrap_err();
        assert!(why.contains("tcp://") && why.contains("--allow"), "{why}");
        let friend = Key([1; 32]);
        let listed = self::door(&[friend], JoinCode::Chosen { code: "abcdef".parse().unwrap(), lasts: HOUR });
        assert!(!listed.needs_key(), "the code would do as well");
        assert_eq!(listed.admit(&listed.knock_tcp(ip(1)), Some(friend)), Ok(()));
        assert!(matches!(listed.knock_tcp("127.0.0.1".parse().unwrap()), Knock::Refused(_)));
    }

    #[test]
    fn guesses_end_after_a_few_for_that_address_alone_and_begin_anew_later() {
        let door = with_code("abcdef");
        for _ in 0..GUESSES {
            let Knock::Refused(why) = door.knock(Duration::ZERO, ip(1), Some("wrong1")) else { panic!("let in") };
            assert!(why.contains("wrong or has expired"), "{why}");
        }
        let Knock::Refused(why) = door.knock(Duration::ZERO, ip(1), Some("abcdef")) else { panic!("let in") };
        assert!(why.contains("too many"), "{why}");
        assert_eq!(door.knock(Duration::ZERO, ip(2), Some("abcdef")), Knock::Code);
        assert_eq!(door.knock(GUESS_WINDOW, ip(1), Some("abcdef")), Knock::Code);
    }

    #[test]
    fn the_hosts_of_one_ipv6_network_guess_together_and_their_number_is_bounded() {
        let door = with_code("abcdef");
        for host in 0..GUESSES {
            door.knock(Duration::ZERO, format!("2001:db8::{host}").parse().unwrap(), Some("wrong1"));
        }
        let same = door.knock(Duration::ZERO, "2001:db8::ffff".parse().unwrap(), Some("abcdef"));
        assert!(matches!(same, Knock::Refused(why) if why.contains("too many")));
        for network in 0..2 * MAX_GUESSERS {
            door.knock(Duration::ZERO, format!("2001:db8:1:{network:x}::1").parse().unwrap(), Some("wrong1"));
        }
        assert_eq!(door.lock().guesses.len(), MAX_GUESSERS);
    }
}
