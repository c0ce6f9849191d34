use proptest::prelude::*;

use super::*;

fn parse(line: &str) -> Result<TraceState, TraceStateError> {
    line.parse()
}

fn numbered(members: usize) -> String {
    (1..=members).map(|number| format!("bar{number:02}={number:02}")).collect::<Vec<_>>().join(",")
}

#[test]
fn several_lines_are_one_list_in_their_order() {
    let state = TraceState::parse_lines(["foo=1,bar=2", "rojo=1,congo=2", "baz=3"]).unwrap();
    assert_eq!(state.as_str(), "foo=1,bar=2,rojo=1,congo=2,baz=3");
}

#[test]
fn white_space_around_members_is_ignored() {
    for line in [
        "foo=1 \t , \t bar=2, \t baz=3",
        "foo=1\t \t,\t \tbar=2,\t \tbaz=3",
        "\t foo=1,bar=2,baz=3 \t",
        " foo=1,bar=2,baz=3\t",
    ] {
        assert_eq!(parse(line).unwrap().as_str(), "foo=1,bar=2,baz=3", "{line:?}");
    }
}

#[test]
fn empty_members_and_empty_lines_are_dropped() {
    for lines in [["", "foo=1"], ["foo=1", ""], [",,, ,\t,", " , foo=1,,"], [" \t", ",foo=1,"]] {
        assert_eq!(TraceState::parse_lines(lines).unwrap().as_str(), "foo=1", "{lines:?}");
    }
    for lines in [vec![], vec![""], vec![" ", "\t,"]] {
        assert!(TraceState::parse_lines(lines).unwrap().is_empty());
    }
}

#[test]
fn a_list_of_32_members_is_kept_whole_and_one_of_33_is_discarded_whole() {
    let state = parse(&numbered(32)).unwrap();
    assert_eq!(state.as_str(), numbered(32));
    assert_eq!(state.iter().count(), 32);
    assert_eq!(parse(&numbered(33)), Err(TraceStateError::Members));
    let lines = [numbered(20), numbered(13)];
    assert_eq!(TraceState::parse_lines(&lines), Err(TraceStateError::Members));
    // Empty members are none.
    assert_eq!(parse(&format!(",,,{},,,", numbered(32))).unwrap().as_str(), numbered(32));
}

#[test]
fn a_list_with_one_key_twice_survives() {
    let state = TraceState::parse_lines(["foo=1,bar=x", "foo=2"]).unwrap();
    assert_eq!(state.as_str(), "foo=1,bar=x,foo=2");
    assert_eq!(state.get("foo"), Some("1"), "the latest writer stands in front");
}

#[test]
fn all_characters_that_the_grammar_allows_are_kept() {
    let key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/@a-z0-9_-*/@";
    let value: String = (0x20..=0x7e_u8).map(char::from).filter(|c| !matches!(c, ',' | '=')).collect();
    let state = parse(&format!("{key}={value}")).unwrap();
    assert_eq!(state.get(key), Some(value.as_str()));
    assert!(value.starts_with(' '), "leading spaces belong to a value");
}

#[test]
fn keys_follow_the_grammar_of_level_2() {
    let long = "z".repeat(256);
    for key in ["a", "0", "0abc", "a@", "foo@@bar", "foo@bar@baz", &long] {
        assert_eq!(parse(&format!("{key}=1")).unwrap().get(key), Some("1"), "{key}");
    }
    let too_long = "z".repeat(257);
    for key in
        ["", "_a", "-a", "*a", "/a", "@foo", "FOO", "fOo", "foo ", "foo\t", "foo.bar", "f o", "é", &too_long]
    {
        assert_eq!(parse(&format!("bar=1,{key}=1")), Err(TraceStateError::Key), "{key:?}");
    }
}

#[test]
fn values_follow_the_grammar_of_level_2() {
    let long = "v".repeat(256);
    for value in ["1", " 1", "  !~", &long] {
        assert_eq!(parse(&format!("a={value}")).unwrap().get("a"), Some(value), "{value:?}");
    }
    let too_long = "v".repeat(257);
    for value in ["", " ", "\t", "\t1", "1\t2", "bar=baz", "=", "\u{7f}", "\u{1f}", "ü", &too_long] {
        assert_eq!(parse(&format!("a={value},b=1")), Err(TraceStateError::Value), "{value:?}");
    }
    assert_eq!(
        parse("a=1 \t ,b=2  ").unwrap().as_str(),
        "a=1,b=2",
        "a trailing space is not part of a value"
    );
}

#[test]
fn one_member_that_breaks_the_grammar_discards_the_whole_list() {
    for bad in ["foo", "foo@=1 2=3", "=1", "Foo=1", "a==", "b", "a =1", "a= ", "\u{0}"] {
        for lines in [["ok=1", bad], [bad, "ok=1"]] {
            assert!(TraceState::parse_lines(lines).is_err(), "{lines:?}");
        }
    }
}

#[test]
fn more_than_the_longest_list_is_not_read() {
    let member = format!("{}={}", "k".repeat(256), "v".repeat(256));
    let longest = vec![member.as_str(); 32].join(",");
    assert!(parse(&longest).is_ok());
    assert_eq!(parse(&",".repeat(INPUT_BYTES_MAX + 1)), Err(TraceStateError::Length));
    assert_eq!(TraceState::parse_lines(vec!["a=1,"; INPUT_BYTES_MAX / 4 + 1]), Err(TraceStateError::Members));
    assert_eq!(TraceState::parse_lines(vec![",,,,"; INPUT_BYTES_MAX / 4 + 1]), Err(TraceStateError::Length));
}

#[test]
fn a_list_of_more_bytes_than_are_passed_on_loses_long_members_first_then_the_last_ones() {
    let short = |name: &str| format!("{name}={}", "s".repeat(125));
    let long = |name: &str| format!("{name}={}", "l".repeat(126));
    assert_eq!((short("a1").len(), long("a1").len()), (128, 129));
    // 32 members of 128 bytes are 4 127 bytes: one more than fits has to go, the last.
    let names: Vec<String> = (10..42).map(|number| format!("a{number}")).collect();
    let members: Vec<String> = names.iter().map(|name| format!("{name}={}", "s".repeat(124))).collect();
    assert_eq!(parse(&members.join(",")).unwrap().as_str(), members[..31].join(","));
    // Two long ones among them: the last of these goes first.
    let mut with_long = members.clone();
    with_long[0] = long("z1");
    with_long[5] = long("z2");
    let kept = parse(&with_long.join(",")).unwrap();
    assert_eq!(kept.get("z2"), None);
    assert!(kept.get("z1").is_some() && kept.get("a41").is_some());
    assert_eq!(kept.iter().count(), 31);
}

#[test]
fn at_least_512_characters_are_passed_on() {
    for members in 1..=32_usize {
        let value = "v".repeat((513 / members).saturating_sub(4).clamp(1, 256));
        let list: Vec<String> = (10..10 + members).map(|number| format!("k{number}={value}")).collect();
        let list = list.join(",");
        assert_eq!(parse(&list).unwrap().as_str(), list);
    }
}

#[test]
fn a_changed_member_moves_to_the_front_and_the_others_keep_their_order() {
    let mut state = parse("a=1,b=2,c=3,b=4").unwrap();
    state.insert("b", "new").unwrap();
    assert_eq!(state.as_str(), "b=new,a=1,c=3");
    state.insert("d", " x").unwrap();
    assert_eq!(state.as_str(), "d= x,b=new,a=1,c=3");
    let mut empty = TraceState::empty();
    empty.insert("a", "1").unwrap();
    assert_eq!(empty.as_str(), "a=1");
}

#[test]
fn the_right_most_member_goes_when_there_would_be_33() {
    let mut state = parse(&numbered(32)).unwrap();
    state.insert("new", "x").unwrap();
    assert_eq!(state.as_str(), format!("new=x,{}", numbered(31)));
    // Changing one that is there drops none.
    state.insert("bar31", "x").unwrap();
    assert_eq!(state.as_str(), format!("bar31=x,new=x,{}", numbered(30)));
}

#[test]
fn an_inserted_member_is_never_the_one_that_is_cut() {
    let member = |name: usize| format!("k{name}={}", "v".repeat(120));
    let mut state = parse(&(10..42).map(member).collect::<Vec<_>>().join(",")).unwrap();
    state.insert("mine", &"m".repeat(256)).unwrap();
    assert_eq!(state.iter().next(), Some(("mine", "m".repeat(256).as_str())));
    assert!(state.as_str().len() <= TraceState::MAX_BYTES);
    assert!(state.as_str().parse::<TraceState>().is_ok());
}

#[test]
fn what_breaks_the_grammar_is_not_inserted() {
    let mut state = parse("a=1").unwrap();
    for (key, value, error) in [
        ("", "1", TraceStateError::Key),
        ("A", "1", TraceStateError::Key),
        ("a,b", "1", TraceStateError::Key),
        ("a=b", "1", TraceStateError::Key),
        ("b", "", TraceStateError::Value),
        ("b", "1 ", TraceStateError::Value),
        ("b", "1,c=2", TraceStateError::Value),
        ("b", "1\r\nx: y", TraceStateError::Value),
        (&"k".repeat(257), "1", TraceStateError::Key),
        ("b", &"v".repeat(257), TraceStateError::Value),
    ] {
        assert_eq!(state.insert(key, value), Err(error), "{key:?} {value:?}");
        assert_eq!(state.as_str(), "a=1");
    }
}

#[test]
fn a_removed_key_is_gone_and_the_others_stay() {
    let mut state = parse("a=1,b=2,a=3,c=4").unwrap();
    assert!(state.remove("a"));
    assert_eq!(state.as_str(), "b=2,c=4");
    assert!(!state.remove("a"));
    assert!(state.remove("b") && state.remove("c"));
    assert_eq!(state, TraceState::empty());
}

/// The grammar, read as slowly and plainly as it is written in the specification.
fn model(lines: &[Vec<u8>]) -> Option<Vec<(String, String)>> {
    let list = lines.join(&b',');
    let mut members = Vec::new();
    for member in list.split(|&byte| byte == b',') {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = member.iter().position(|byte| !is_space(byte));
        let end = member.iter().rposition(|byte| !is_space(byte));
        let (Some(start), Some(end)) = (start, end) else { continue };
        let member = std::str::from_utf8(&member[start..=end]).ok()?;
        let (key, value) = member.split_once('=')?;
        let key_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-*/@".contains(c);
        let key_is_good = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && key.chars().all(key_char)
            && key.len() <= 256;
        let value_is_good = (1..=256).contains(&value.len())
            && value.chars().all(|c| (' '..='~').contains(&c) && c != ',' && c != '=')
            && !value.ends_with(' ');
        if !key_is_good || !value_is_good {
            return None;
        }
        members.push((key.to_owned(), value.to_owned()));
    }
    (members.len() <= 32).then_some(members)
}

/// Bytes that mostly make members, with what separates and breaks them mixed in.
fn hostile_line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => "[a-z0-9][a-z0-9_*/@-]{0,8}=[ -+.-<>-~]{0,6}[!-+]".prop_map(String::into_bytes),
        4 => Just(b",".to_vec()),
        2 => "[ \t,]{0,4}".prop_map(String::into_bytes),
        1 => "[a-z=, A-Z]{0,4}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn pairs(state: &TraceState) -> Vec<(String, String)> {
    state.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_parser_agrees_with_the_grammar(lines in prop::collection::vec(hostile_line(), 0..4)) {
        let parsed = TraceState::parse_lines(&lines).ok();
        prop_assert_eq!(parsed.as_ref().map(pairs), model(&lines));
        if let Some(state) = parsed {
            // What is kept is normal: it parses to itself, byte by byte.
            prop_assert_eq!(&state.as_str().parse::<TraceState>().unwrap(), &state);
            prop_assert_eq!(state.as_str().is_empty(), state.iter().next().is_none());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        prop_assert_eq!(TraceState::parse_lines(&lines).ok().as_ref().map(pairs), model(&lines));
    }

    #[test]
    fn an_insertion_does_what_a_list_of_pairs_does(
        members in prop::collection::vec(("[ab][ab]?", "[xy]{1,3}"), 0..36),
        changes in prop::collection::vec(("[abc][ab]?", "[xyz]{1,3}"), 0..8),
    ) {
        let line = members.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let mut state = line.parse::<TraceState>().unwrap_or_default();
        let mut expected = pairs(&state);
        for (key, value) in changes {
            state.insert(&key, &value).unwrap();
            expected.retain(|(other, _)| *other != key);
            expected.insert(0, (key, value));
            expected.truncate(32);
        }
        prop_assert_eq!(pairs(&state), expected);
    }

    #[test]
    fn a_long_list_is_cut_to_whole_members_in_their_order(
        members in prop::collection::vec((1_usize..=256, 1_usize..=256), 1..=32),
    ) {
        let members: Vec<String> =
            members.into_iter().map(|(key, value)| format!("{}={}", "k".repeat(key), "v".repeat(value))).collect();
        let state = members.join(",").parse::<TraceState>().unwrap();
        prop_assert!(state.as_str().len() <= TraceState::MAX_BYTES);
        let kept: Vec<&str> = state.as_str().split(',').collect();
        let mut others = members.iter();
        prop_assert!(kept.iter().all(|kept| others.any(|member| member == kept)), "a subsequence");
        // As long as a member of more than 128 characters is left, no shorter one was dropped.
        let short = |members: usize, len: usize| if len <= 128 { members + 1 } else { members };
        if kept.iter().any(|kept| kept.len() > 128) {
            let before = members.iter().map(String::len).fold(0, short);
            prop_assert_eq!(kept.iter().map(|kept| kept.len()).fold(0, short), before);
        }
    }

    #[test]
    fn the_only_line_is_read_as_one_of_several(line in "([a-c0-9@.:;% ]{0,5}[=,]){0,12}[A-Za-z]{0,300}") {
        prop_assert_eq!(TraceState::parse_line(line.as_bytes()), TraceState::parse_lines([line.as_str(), ""]));
    }

    #[test]
    fn the_only_line_has_the_limits_of_several(members in 0..80_usize, bytes in 0..200_usize) {
        let line = vec![format!("k={}", "v".repeat(bytes)); members].join(",");
        prop_assert_eq!(TraceState::parse_line(line.as_bytes()), TraceState::parse_lines([line.as_str(), ""]));
    }
}
