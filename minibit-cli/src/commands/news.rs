//! What changes for a download while it waits for others, as people and programs are told.
//!
//! Not here: when there is something to tell (`opening`, `watch`).

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::output::json::Event;
use crate::output::units::{Left, Names, Passed};

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// There is nobody to fetch from.
    Waiting {
        why: Why,
        whom: Vec<SocketAddr>,
        /// Left out if it never does.
        gives_up_in: Option<Duration>,
    },
    /// There is somebody again.
    GoingOn { with: Vec<SocketAddr> },
}

/// Why there is nobody to fetch from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody has answered so far.
    Unanswered,
    /// Connections ended without a goodbye.
    Lost,
    /// Everybody said goodbye.
    Left,
    /// Those who have what is missing do not send it; nothing has come for so long.
    Silent(Duration),
    /// Those who are there lack it, too.
    NotHeld,
}

impl News {
    /// The same for programs.
    pub(super) fn event(&self) -> Event {
        let texts = |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect();
        match self {
            Self::Waiting { why, whom, gives_up_in } => Event::Waiting {
                why: match why {
                    Why::Unanswered => "unanswered",
                    Why::Lost => "lost",
                    Why::Left => "left",
                    Why::Silent(_) => "silent",
                    Why::NotHeld => "not_held",
                },
                peers: texts(whom),
                gives_up_in: gives_up_in.map(|left| left.as_secs()),
            },
            Self::GoingOn { with } => Event::GoingOn { peers: texts(with) },
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, whom, gives_up_in) = match self {
            Self::GoingOn { with } => return write!(f, "going on, with {}", Names(with)),
            Self::Waiting { why, whom, gives_up_in } => (why, whom, gives_up_in),
        };
        let names = Names(whom);
        match why {
            Why::Unanswered => {
                write!(f, "nothing has come from {names} yet; trying again")?;
                if let Some(left) = gives_up_in {
                    write!(f, " for {}", Left(*left))?;
                }
                return f
                    .write_str(": is it still shared there, and can this machine connect to it?");
            }
            Why::Lost => write!(f, "lost contact with {names}")?,
            Why::Left => write!(f, "{names} left")?,
            Why::Silent(time) => {
                let verb = if whom.len() == 1 { "does" } else { "do" };
                write!(f, "{names} {verb} not answer: nothing has come for {}", Passed(*time))?;
            }
            Why::NotHeld => f.write_str("nobody who is there has what is missing")?,
        }
        f.write_str("; it goes on by itself when anybody ")?;
        let is_there = matches!(why, Why::Silent(_));
        f.write_str(if is_there { "sends again" } else { "is back" })?;
        if let Some(left) = gives_up_in {
            write!(f, " (giving up in {})", Left(*left))?;
        }
        f.write_str("; Ctrl-C keeps what is here")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_happened_and_what_comes_of_it_and_programs_the_same_by_its_name() {
        let one: SocketAddr = ([192, 0, 2, 7], 1).into();
        let both = vec![one, ([192, 0, 2, 7], 2).into()];
        let told = |why, whom: &[SocketAddr]| {
            let gives_up_in = Some(Duration::from_millis(61_900));
            let news = News::Waiting { why, whom: whom.to_vec(), gives_up_in };
            (news.to_string(), serde_json::to_value(news.event()).expect("JSON"))
        };
        let (silent, event) = told(Why::Silent(Duration::from_millis(4700)), &[one]);
        assert_eq!(
            silent,
            "192.0.2.7:1 does not answer: nothing has come for 4 s; it goes on by itself when \
             anybody sends again (giving up in 1:02); Ctrl-C keeps what is here"
        );
        let json = serde_json::json!({
            "event": "waiting", "why": "silent", "peers": ["192.0.2.7:1"], "gives_up_in": 61,
        });
        assert_eq!(event, json);
        for (why, words, name) in [
            (Why::Silent(Duration::ZERO), "192.0.2.7:1, 192.0.2.7:2 do not answer: ", "silent"),
            (Why::Lost, "lost contact with 192.0.2.7:1, 192.0.2.7:2; it goes on", "lost"),
            (Why::Left, "192.0.2.7:1, 192.0.2.7:2 left; it goes on", "left"),
            (Why::NotHeld, "nobody who is there has what is missing; it goes on", "not_held"),
            (Why::Unanswered, "nothing has come from 192.0.2.7:1, 192.0.2.7:2 yet", "unanswered"),
        ] {
            let (text, event) = told(why, &both);
            assert!(text.starts_with(words), "{text}");
            assert_eq!(event["why"], name);
        }
        let forever = News::Waiting { why: Why::Lost, whom: both.clone(), gives_up_in: None };
        assert!(!forever.to_string().contains("giving up"));
        let back = News::GoingOn { with: both };
        assert_eq!(back.to_string(), "going on, with 192.0.2.7:1, 192.0.2.7:2");
        let event = serde_json::to_value(back.event()).expect("JSON");
        assert_eq!(
            (&event["event"], &event["peers"][1]),
            (&"going_on".into(), &"192.0.2.7:2".into())
        );
    }
}
