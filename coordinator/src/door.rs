//! Who may join: nodes with a listed key, and nodes with the join code.
//!
//! SYN1 has no field for a code, and its messages stay as they are: a code travels in the WebSocket's request (`transport-ws`), so
//! a node that joins by plain TCP needs a listed key. A node that came in by the code may come back by its key when the code
//! has expired: a phone that was asleep should not need a new one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syn1_identity::{Key, KeyFileError};

use crate::code::Code;
use crate::limits::{GUESS_WINDOW, GUESSES, MAX_CODES, MAX_GUESSERS, MAX_MEMBERS};
use crate::store::{Change, Remembered, Store};
use crate::update::Evidence;

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
    /// Seconds from 1970 to the coordinator's start.
    since: u64,
    store: Option<Arc<Store>>,
}

/// A node that computed garbage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its name then.
    pub name: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// What shows it.
    pub evidence: Evidence,
}

/// A join code that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// When it expires, in seconds since 1970.
    pub until: u64,
    /// Whether it is the one that the coordinator made to be shown.
    pub shown: bool,
}

/// A join code, for whoever may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CodeView {
    /// The code, as it is typed.
    pub code: String,
    /// Seconds that it still lasts.
    pub expires_s: u64,
    /// Whether it is the one in the link that the coordinator shows.
    pub shown: bool,
    /// Nodes that came in by it.
    pub members: usize,
}

struct State {
    code: Option<Current>,
    /// Others that people asked for, and when they expire.
    issued: Vec<(Code, Duration)>,
    /// Keys that came in by a code, and by which.
    members: HashMap<Key, String>,
    /// Keys of nodes that computed garbage.
    quarantined: HashMap<Key, Quarantined>,
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
    /// It has this code: its key will be remembered.
    Code(String),
    /// It needs a listed key.
    Key,
    /// It may come in only if its key is known; else it is told this.
    Refused(String),
}

impl Door {
    /// At a coordinator that was started `since` seconds after 1970, with what it remembers and is to remember.
    pub(crate) fn new(
        allow: Vec<Key>,
        code: JoinCode,
        since: u64,
        remembered: &Remembered,
        store: Option<Arc<Store>>,
    ) -> Result<Self, KeyFileError> {
        let left = |issued: &Issued| issued.until.checked_sub(since).filter(|left| *left > 0).map(Duration::from_secs);
        let known =
            remembered.codes.iter().filter_map(|(code, issued)| Some((code.parse().ok()?, issued, left(issued)?)));
        let known: Vec<(Code, &Issued, Duration)> = known.collect();
        let code = match code {
            JoinCode::None => None,
            // The link that was shown before goes on being good.
            JoinCode::Auto { lasts } => Some(match known.iter().find(|(_, issued, _)| issued.shown) {
                Some((code, _, left)) => Current { code: code.clone(), until: *left, again: Some(lasts) },
                None => Current { code: Code::generate()?, until: lasts, again: Some(lasts) },
            }),
            JoinCode::Chosen { code, lasts } => Some(Current { code, until: lasts, again: None }),
        };
        let issued = known.iter().filter(|(_, issued, _)| !issued.shown).map(|(code, _, left)| (code.clone(), *left));
        let state = State {
            code,
            issued: issued.collect(),
            members: remembered.members.iter().cloned().collect(),
            quarantined: remembered.quarantined.iter().cloned().collect(),
            guesses: HashMap::new(),
        };
        let door = Self { allow, state: Mutex::new(state), since, store };
        for code in remembered.codes.iter().filter(|(_, issued)| left(issued).is_none()).map(|(code, _)| code) {
            door.put(Change::Revoke(code.clone()));
        }
        door.remember(&door.lock());
        Ok(door)
    }

    fn put(&self, change: Change) {
        if let Some(store) = &self.store {
            store.put(change);
        }
    }

    /// Remembers the code that is shown, if the coordinator made it.
    fn remember(&self, state: &State) {
        if let Some(current) = state.code.as_ref().filter(|current| current.again.is_some()) {
            self.put(current.change(self.since));
        }
    }

    /// Every code that lets in now.
    pub(crate) fn codes(&self, now: Duration) -> Vec<CodeView> {
        let shown = self.code(now);
        let state = self.lock();
        let members = |code: &Code| state.members.values().filter(|by| *by == code.plain()).count();
        let view = |code: &Code, left: Duration, shown: bool| CodeView {
            code: code.to_string(),
            expires_s: left.as_secs(),
            shown,
            members: members(code),
        };
        let issued = state.issued.iter().filter_map(|(code, until)| Some((code, until.checked_sub(now)?)));
        let shown = shown.iter().map(|(code, left)| view(code, *left, true));
        shown.chain(issued.filter(|(_, left)| !left.is_zero()).map(|(code, left)| view(code, left, false))).collect()
    }

    /// Makes one more code.
    ///
    /// # Errors
    /// Nodes need none here, or there are too many, or no random numbers.
    pub(crate) fn issue(&self, now: Duration, lasts: Duration) -> Result<CodeView, String> {
        let mut state = self.lock();
        if state.code.is_none() {
            return Err("nodes need no code here: start the coordinator with `--join-code auto`".into());
        }
        state.issued.retain(|(_, until)| *until > now);
        if state.issued.len() >= MAX_CODES {
            return Err(format!("{MAX_CODES} codes are good already: revoke one"));
        }
        let code = Code::generate().map_err(|error| error.to_string())?;
        let until = now + lasts;
        self.put(Change::Code(code.plain().into(), Issued { until: self.since + until.as_secs(), shown: false }));
        let view = CodeView { code: code.to_string(), expires_s: lasts.as_secs(), shown: false, members: 0 };
        state.issued.push((code, until));
        Ok(view)
    }

    /// Takes a code back: nobody comes in by it any more, nor comes back who came in by it. False if there is no such code.
    pub(crate) fn revoke(&self, now: Duration, text: &str) -> bool {
        let mut state = self.lock();
        let State { code, issued, members, .. } = &mut *state;
        let shown = code.as_mut().filter(|current| current.until > now && current.code.is(text));
        let revoked = match shown {
            Some(current) => {
                let revoked = current.code.clone();
                current.until = now;
                current.renew(now);
                Some(revoked)
            }
            None => issued.iter().position(|(code, _)| code.is(text)).map(|at| issued.swap_remove(at).0),
        };
        let Some(revoked) = revoked else { return false };
        self.put(Change::Revoke(revoked.plain().into()));
        members.retain(|key, by| {
            let stays = by != revoked.plain();
            if !stays {
                self.put(Change::Dismiss(*key));
            }
            stays
        });
        self.remember(&state);
        true
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
        let is_new = current.renew(now);
        let shown = (current.code.clone(), current.until.checked_sub(now).filter(|left| !left.is_zero()));
        if is_new {
            self.remember(&state);
        }
        Some((shown.0, shown.1?))
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
        let State { code, issued, guesses, .. } = &mut *state;
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
        if current.renew(now) {
            self.put(current.change(self.since));
        }
        // Every code is looked at, so that the time it takes tells nothing.
        let other = issued.iter().fold(None, |found, (code, until)| {
            let good = code.is(offered) && *until > now;
            if good { Some(code.plain().to_owned()) } else { found }
        });
        if let Some(code) = other {
            return Knock::Code(code);
        }
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
        Knock::Code(current.code.plain().to_owned())
    }

    /// Whether the node that knocked so may come in, now that its key is known if it has proven one.
    pub(crate) fn admit(&self, knock: &Knock, key: Option<Key>) -> Result<(), String> {
        let mut state = self.lock();
        if let Some((key, found)) = key.and_then(|key| Some((key, state.quarantined.get(&key)?))) {
            let (first, end) = found.evidence.layers;
            let position = found.evidence.position;
            return Err(format!(
                "this node is quarantined: what it computed of layers {first}..{end} at position {position} was garbage; \
                 `syn1 quarantine release {key}` at the coordinator lets it in again"
            ));
        }
        if key.is_some_and(|key| self.allow.contains(&key) || state.members.contains_key(&key)) {
            return Ok(());
        }
        match (knock, key) {
            (Knock::Code(code), Some(key)) if state.members.len() < MAX_MEMBERS => {
                state.members.insert(key, code.clone());
                self.put(Change::Member(key, code.clone()));
                Ok(())
            }
            (Knock::Welcome | Knock::Code(_), _) => Ok(()),
            (Knock::Refused(why), _) => Err(why.clone()),
            (Knock::Key, key) => {
                let key = key.map_or_else(|| String::from("no key"), |key| format!("key {key}"));
                Err(format!("it has {key}, which may not join: `--allow` names those that may"))
            }
        }
    }

    /// Lets a node in no more.
    pub(crate) fn quarantine(&self, key: Key, found: Quarantined) {
        self.put(Change::Quarantine(key, found.clone()));
        self.lock().quarantined.insert(key, found);
    }

    /// Who is not let in for what it computed.
    pub(crate) fn quarantined(&self) -> Vec<(Key, Quarantined)> {
        self.lock().quarantined.iter().map(|(key, found)| (*key, found.clone())).collect()
    }

    /// Lets a node in again; false if it was not kept out.
    pub(crate) fn release(&self, key: Key) -> bool {
        let released = self.lock().quarantined.remove(&key).is_some();
        if released {
            self.put(Change::Release(key));
        }
        released
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// What is remembered of it at a coordinator that was started `since` seconds after 1970.
    fn change(&self, since: u64) -> Change {
        Change::Code(self.code.plain().into(), Issued { until: since + self.until.as_secs(), shown: true })
    }

    /// Makes a new code where this one has expired and there is to be another one; says whether it did.
    fn renew(&mut self, now: Duration) -> bool {
        // Without random numbers the old one stays expired.
        let (true, Some(lasts), Ok(code)) = (self.until <= now, self.again, Code::generate()) else { return false };
        (self.code, self.until) = (code, now + lasts);
        true
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
        Door::new(allow.to_vec(), code, 0, &Remembered::default(), None).unwrap()
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
        assert_eq!(door.knock(HOUR, ip(1), Some(&second.to_string())), Knock::Code(second.plain().into()));
    }

    #[test]
    fn a_code_that_follows_an_expired_one_outlives_a_restart_whoever_came_first() {
        let folder = tempfile::tempdir().unwrap();
        let lasts = JoinCode::Auto { lasts: HOUR };
        let open = |since: u64| {
            let (store, remembered) = Store::open(folder.path()).unwrap();
            Door::new(Vec::new(), lasts.clone(), since, &remembered, Some(Arc::new(store))).unwrap()
        };
        let before = open(0);
        let (first, _) = before.code(Duration::ZERO).unwrap();
        // Somebody tries the old link; then people are shown the new one.
        assert!(matches!(before.knock(HOUR, ip(1), Some(&first.to_string())), Knock::Refused(_)));
        let (second, _) = before.code(HOUR).unwrap();
        drop(before);
        let after = open(HOUR.as_secs() + 60);
        assert_eq!(after.code(Duration::ZERO).map(|(code, _)| code), Some(second));
    }

    #[test]
    fn codes_beside_the_shown_one_let_in_until_they_expire_or_are_revoked_and_revoking_sends_their_members_away() {
        let (door, phone) = (with_code("abcdef"), Key([3; 32]));
        let code = door.issue(Duration::ZERO, 2 * HOUR).unwrap().code;
        let knock = door.knock(Duration::ZERO, ip(1), Some(&code));
        assert_eq!(door.admit(&knock, Some(phone)), Ok(()));
        let views = door.codes(Duration::ZERO);
        assert_eq!(views.iter().map(|view| (view.shown, view.members)).collect::<Vec<_>>(), [(true, 0), (false, 1)]);
        assert_eq!(door.codes(HOUR).len(), 1, "the chosen one has expired");
        assert!(matches!(door.knock(2 * HOUR, ip(2), Some(&code)), Knock::Refused(_)));
        assert!(door.revoke(Duration::ZERO, &code.to_lowercase()) && !door.revoke(Duration::ZERO, &code));
        let late = door.knock(Duration::ZERO, ip(3), Some(&code));
        assert!(door.admit(&late, Some(phone)).is_err(), "who came in by it may not come back");
        assert!(door.revoke(Duration::ZERO, "ABCDEF"));
        assert!(matches!(door.knock(Duration::ZERO, ip(4), Some("abcdef")), Knock::Refused(_)));
        let open = self::door(&[], JoinCode::None);
        assert!(open.issue(Duration::ZERO, HOUR).unwrap_err().contains("--join-code"));
    }

    #[test]
    fn the_shown_code_is_followed_by_another_one_when_it_is_revoked_and_the_number_of_codes_is_bounded() {
        let door = door(&[], JoinCode::Auto { lasts: HOUR });
        let (first, _) = door.code(Duration::ZERO).unwrap();
        assert!(door.revoke(Duration::ZERO, first.plain()));
        assert_ne!(door.code(Duration::ZERO).unwrap().0, first);
        for _ in 0..MAX_CODES {
            door.issue(Duration::ZERO, HOUR).unwrap();
        }
        assert!(door.issue(Duration::ZERO, HOUR).is_err() && door.issue(HOUR, HOUR).is_ok());
    }

    #[test]
    fn what_is_remembered_is_good_again_and_what_has_expired_is_not() {
        let issued = |until, shown| Issued { until, shown };
        let codes =
            [("ABCDEFGH", issued(1600, true)), ("QRSTUVWX", issued(1500, false)), ("EXPIREDX", issued(900, false))];
        let remembered = Remembered {
            codes: codes.map(|(code, issued)| (code.to_owned(), issued)).into(),
            members: vec![(Key([3; 32]), "QRSTUVWX".into())],
            ..Remembered::default()
        };
        let door = Door::new(Vec::new(), JoinCode::Auto { lasts: HOUR }, 1000, &remembered, None).unwrap();
        let views = door.codes(Duration::ZERO);
        let views: Vec<_> = views.iter().map(|view| (&*view.code, view.expires_s, view.members)).collect();
        assert_eq!(views, [("ABCD-EFGH", 600, 0), ("QRST-UVWX", 500, 1)]);
        let late = door.knock(Duration::from_secs(550), ip(1), Some("QRSTUVWX"));
        assert_eq!(door.admit(&late, Some(Key([3; 32]))), Ok(()));
        assert!(door.admit(&late, Some(Key([4; 32]))).is_err());
    }

    #[test]
    fn a_quarantined_key_opens_no_door_until_it_is_released() {
        let friend = Key([1; 32]);
        let door = door(&[friend], JoinCode::None);
        let evidence = Evidence { layers: (2, 4), request: 7, position: 31, error: 0.5, allowed: 0.02 };
        door.quarantine(friend, Quarantined { name: "laptop".into(), at: 1, evidence });
        let why = door.admit(&door.knock_tcp(ip(1)), Some(friend)).unwrap_err();
        assert!(why.contains("layers 2..4") && why.contains(&friend.to_string()), "{why}");
        assert!(door.release(friend) && !door.release(friend));
        assert_eq!(door.admit(&door.knock_tcp(ip(1)), Some(friend)), Ok(()));
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
        assert_eq!(door.knock(Duration::ZERO, ip(2), Some("abcdef")), Knock::Code("ABCDEF".into()));
        assert_eq!(door.knock(GUESS_WINDOW, ip(1), Some("abcdef")), Knock::Code("ABCDEF".into()));
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
