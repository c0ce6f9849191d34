use proptest::prelude::*;

use super::*;

fn parse(line: &str) -> Baggage {
    Baggage::parse_lines([line])
}

fn values(baggage: &Baggage) -> Vec<(String, String)> {
    baggage.iter().map(|member| (member.name().to_owned(), member.value().into_owned())).collect()
}

#[test]
fn several_lines_are_one_list_in_their_order() {
    let baggage = Baggage::parse_lines(["userId=alice", "serverNode=DF%2028,isProduction=false"]);
    assert_eq!(baggage.as_str(), "userId=alice,serverNode=DF%2028,isProduction=false");
    assert_eq!(baggage.len(), 3);
    assert_eq!(baggage.get("serverNode").as_deref(), Some("DF 28"));
    assert_eq!(baggage.get("servernode"), None, "names are compared exactly");
}

#[test]
fn white_space_around_every_part_is_ignored() {
    let baggage = parse(" a \t = \t 1 \t ; \t p \t ; \t q \t = \t 2 \t , \t b = 3 \t");
    assert_eq!(baggage.as_str(), "a=1;p;q=2,b=3");
}

#[test]
fn empty_members_and_empty_lines_are_dropped() {
    for lines in [["", "a=1"], ["a=1", ""], [",,, ,\t,", " , a=1,,"], [" \t", ",a=1,"]] {
        assert_eq!(Baggage::parse_lines(lines).as_str(), "a=1", "{lines:?}");
    }
    assert!(Baggage::parse_lines(["", " ", ",\t,"]).is_empty());
    assert_eq!(Baggage::parse_lines([""; 0]), Baggage::new());
}

#[test]
fn values_are_percent_encoded_utf_8() {
    assert_eq!(
        parse("a=%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29").get("a").as_deref(),
        Some("\t \"';=asdf!@#$%^&*()")
    );
    assert_eq!(parse("a=%c3%bC").get("a").as_deref(), Some("ü"), "hex digits of either case");
    assert_eq!(parse("a=a+b").get("a").as_deref(), Some("a+b"), "a plus is a plus");
    assert_eq!(parse("a=").get("a").as_deref(), Some(""));
    assert_eq!(parse("a=b=c==").get("a").as_deref(), Some("b=c=="), "a value can hold the equals sign");
    assert!(matches!(parse("a=plain").get("a"), Some(Cow::Borrowed("plain"))));
}

#[test]
fn bytes_that_are_not_utf_8_read_as_the_replacement_character_and_are_sent_on_unchanged() {
    let baggage = parse("a=x%FFy%C3,b=1");
    assert_eq!(baggage.get("a").as_deref(), Some("x\u{fffd}y\u{fffd}"));
    assert_eq!(baggage.as_str(), "a=x%FFy%C3,b=1");
}

#[test]
fn a_percent_sign_without_two_digits_stands_for_itself() {
    for value in ["%", "%4", "%zz", "100%", "%%", "%+1"] {
        assert_eq!(parse(&format!("a={value}")).get("a").as_deref(), Some(value));
    }
    assert_eq!(parse("a=%%41").get("a").as_deref(), Some("%A"));
}

#[test]
fn properties_stay_with_their_member() {
    let baggage = parse("a=1;p;q=%20x;r=,b=2");
    let member = baggage.member("a").unwrap();
    assert_eq!((member.name(), &*member.value()), ("a", "1"));
    let properties: Vec<_> = member.properties().collect();
    let expected: [(&str, Option<&str>); 3] = [("p", None), ("q", Some(" x")), ("r", Some(""))];
    assert_eq!(properties.len(), 3);
    for ((name, value), expected) in properties.iter().zip(expected) {
        assert_eq!((*name, value.as_deref()), expected);
    }
    assert_eq!(baggage.member("b").unwrap().properties().count(), 0);
}

#[test]
fn a_member_that_breaks_the_grammar_is_left_out_and_the_others_stay() {
    for bad in [
        "novalue", "=1", " =1", "a b=1", "a=1 2", "a=\"1\"", "a=\\", "ä=1", "a=ä", "a=1;", "a=1;;p",
        "a=1;=2", "a=1;p q", "a(=1", "a=\u{0}", "a=\u{7f}", "a;p=1", "a=1;p=\"",
    ] {
        assert_eq!(parse(&format!("x=1,{bad},y=2")).as_str(), "x=1,y=2", "{bad:?}");
        assert!(parse(bad).is_empty(), "{bad:?}");
    }
}

#[test]
fn names_are_tokens() {
    let name = "!#$%&'*+-.^_`|~09azAZ";
    assert_eq!(parse(&format!("{name}=1")).get(name).as_deref(), Some("1"));
    let mut baggage = Baggage::new();
    baggage.insert(name, "1").unwrap();
    for bad in ["", " ", "a b", "a,b", "a=b", "a;b", "ä", "a\r\nb", "\"a\"", "a/b"] {
        assert_eq!(baggage.insert(bad, "1"), Err(BaggageError::Name), "{bad:?}");
        assert_eq!(
            baggage.insert_with_properties("a", "1", &[(bad, None)]),
            Err(BaggageError::Name),
            "{bad:?}"
        );
        assert_eq!(baggage.get(bad), None);
    }
    assert_eq!(baggage.as_str(), format!("{name}=1"));
}

#[test]
fn the_last_of_several_members_of_one_name_counts() {
    let mut baggage = parse("a=1,b=2,a=3");
    assert_eq!(baggage.as_str(), "a=1,b=2,a=3", "all are passed on in their order");
    assert_eq!(baggage.get("a").as_deref(), Some("3"));
    baggage.insert("a", "4").unwrap();
    assert_eq!(baggage.as_str(), "b=2,a=4");
    assert!(baggage.remove("a"));
    assert!(!baggage.remove("a"));
    assert_eq!(baggage.as_str(), "b=2");
    assert!(baggage.remove("b"));
    assert_eq!(baggage, Baggage::new());
}

#[test]
fn inserted_values_are_encoded_so_that_they_arrive() {
    let mut baggage = Baggage::new();
    baggage.insert("a", "1,b=2;p\r\n %+\"\\é").unwrap();
    assert_eq!(baggage.as_str(), "a=1%2Cb=2%3Bp%0D%0A%20%25%2B%22%5C%C3%A9");
    assert_eq!(baggage.len(), 1);
}

#[test]
fn at_most_64_members_are_kept_and_they_are_the_first() {
    let members: Vec<String> = (0..65).map(|number| format!("k{number}=v")).collect();
    assert_eq!(parse(&members[..64].join(",")).as_str(), members[..64].join(","));
    assert_eq!(parse(&members.join(",")).as_str(), members[..64].join(","));
    assert_eq!(Baggage::parse_lines(&members).as_str(), members[..64].join(","));

    let mut full = parse(&members[..64].join(","));
    assert_eq!(full.insert("new", "1"), Err(BaggageError::Members));
    assert_eq!(full.as_str(), members[..64].join(","));
    full.insert("k3", "changed").unwrap();
    assert_eq!(full.len(), 64);
}

#[test]
fn at_most_8192_bytes_are_kept_and_no_member_in_part() {
    let exact = format!("a={}", "0123456789".repeat(819));
    assert_eq!(exact.len(), 8192);
    assert_eq!(parse(&exact).as_str(), exact);
    assert!(parse(&format!("{exact}x")).is_empty());
    assert_eq!(parse(&format!("{exact}x,b=1")).as_str(), "b=1");
    assert_eq!(parse(&format!("b=1,{exact},c=2")).as_str(), "b=1,c=2");

    let mut baggage = Baggage::new();
    assert_eq!(baggage.insert("a", &"x".repeat(8191)), Err(BaggageError::Length));
    baggage.insert("a", &"x".repeat(8190)).unwrap();
    assert_eq!(baggage.insert("b", ""), Err(BaggageError::Length));
    assert_eq!(baggage.as_str().len(), 8192);
    assert_eq!(Baggage::new().insert("a", &" ".repeat(2731)), Err(BaggageError::Length), "as it is sent");
}

#[test]
fn what_follows_the_first_16_kib_is_not_read_and_nothing_cut_in_two_is_kept() {
    let spaces = " ".repeat(INPUT_BYTES_MAX - 5);
    assert_eq!(parse(&format!("a=1,{spaces}b=2")).as_str(), "a=1", "`b` alone is within");
    assert_eq!(parse(&format!("a=12{spaces}3,b=2")).as_str(), "", "a value that may go on");
    assert_eq!(parse(&format!("a=1{spaces},b=2")).as_str(), "a=1");
    assert_eq!(Baggage::parse_lines(["a=1", &",".repeat(INPUT_BYTES_MAX - 3), "b=2"]).as_str(), "a=1");
    assert_eq!(Baggage::parse_lines(["a=1", &",".repeat(INPUT_BYTES_MAX - 6), "b=2"]).as_str(), "a=1,b=2");
}

/// The grammar, read as slowly and plainly as it is written in the specification.
fn model(lines: &[Vec<u8>]) -> Vec<String> {
    let token = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    };
    let octets = |text: &str| text.chars().all(|c| ('!'..='~').contains(&c) && !"\",;\\".contains(c));
    let trim = |text: &str| text.trim_matches([' ', '\t']).to_owned();
    let pair = |text: &str| {
        let (name, value) = text.split_once('=')?;
        let (name, value) = (trim(name), trim(value));
        (token(&name) && octets(&value)).then(|| format!("{name}={value}"))
    };
    let mut members = Vec::new();
    for member in lines.join(&b',').split(|&byte| byte == b',') {
        let Ok(member) = std::str::from_utf8(member) else { continue };
        let mut parts = member.split(';');
        let first = parts.next().and_then(pair);
        let properties = parts.map(|part| {
            let name = trim(part);
            if token(&name) { Some(name) } else { pair(part) }
        });
        let whole: Option<Vec<String>> = std::iter::once(first).chain(properties).collect();
        members.extend(whole.map(|parts| parts.join(";")));
    }
    members.truncate(64);
    members
}

fn hostile_line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => "[a-zA-Z!#*.~%-]{1,6}[ \t]{0,1}=[ \t]{0,1}[!#-+.-:<-Z^-~]{0,6}".prop_map(String::into_bytes),
        4 => Just(b",".to_vec()),
        2 => ";[a-z ]{0,3}".prop_map(String::into_bytes),
        1 => "[ \t,;=]{0,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_parser_agrees_with_the_grammar(lines in prop::collection::vec(hostile_line(), 0..4)) {
        let parsed = Baggage::parse_lines(&lines);
        prop_assert_eq!(parsed.as_str(), model(&lines).join(","));
        // What is kept is normal: it parses to itself, byte by byte.
        prop_assert_eq!(&Baggage::parse_lines([parsed.as_str()]), &parsed);
    }

    #[test]
    fn arbitrary_bytes_never_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let parsed = Baggage::parse_lines(&lines);
        prop_assert_eq!(parsed.as_str(), model(&lines).join(","));
        prop_assert_eq!(values(&parsed).len(), parsed.len());
    }

    #[test]
    fn any_text_arrives_as_it_was_inserted(
        members in prop::collection::btree_map("[a-z.]{1,5}", (any::<String>(), any::<Option<String>>()), 0..10),
    ) {
        let mut baggage = Baggage::new();
        for (name, (value, property)) in &members {
            baggage.insert_with_properties(name, value, &[("p", property.as_deref())]).unwrap();
        }
        let arrived = Baggage::parse_lines([baggage.as_str()]);
        prop_assert_eq!(arrived.len(), members.len());
        for (name, (value, property)) in &members {
            let member = arrived.member(name).unwrap();
            prop_assert_eq!(&*member.value(), value);
            let properties: Vec<_> = member.properties().collect();
            prop_assert_eq!(properties, [("p", property.as_deref().map(Cow::Borrowed))]);
        }
    }

    #[test]
    fn the_only_line_is_read_as_one_of_several(line in "([a-c0-9@.:;% ]{0,5}[=,]){0,12}[A-Za-z]{0,300}") {
        prop_assert_eq!(Baggage::parse_line(line.as_bytes()), Baggage::parse_lines([line.as_str(), ""]));
    }

    #[test]
    fn the_only_line_has_the_limits_of_several(members in 0..80_usize, bytes in 0..200_usize) {
        let line = vec![format!("k={}", "v".repeat(bytes)); members].join(",");
        prop_assert_eq!(Baggage::parse_line(line.as_bytes()), Baggage::parse_lines([line.as_str(), ""]));
    }
}
