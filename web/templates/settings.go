package templates

// ConsumerSettings are the settings of one consumer, with the forms that change
// them and what was changed.
type ConsumerSettings struct {
	Name, Where      string
	URL, SettingsURL string
	Unread           string // why the leader does not tell them; "" if it did
	At               When   // they were read
	Force            []Setting
	Counts           string // what is in flight and waits
	PausedUntil      string // "" if it is not
	Fixed            []FixedRow
	Pins             []PinRow
	Form             SettingsForm
	Changes          []SettingsChange
	More             string // how many changes are not shown; "" for none
	CSV, JSON        string
}

// FixedRow is a setting that no server changes.
type FixedRow struct{ Name, Value, Why string }

// PinRow is the client that is pinned for a group.
type PinRow struct{ Group, Client string }

// SettingsForm changes settings, pauses and resumes.
type SettingsForm struct {
	Base       string // digest of the settings that it was filled with
	General    string // what is wrong with the whole
	Conflict   bool   // they were changed by somebody else
	NotReady   string
	Fields     []SettingField
	Policies   []Option
	Migrate    bool
	MigrateWhy string // why the change is refused without consent; "" if it needs none
	Hold       string
	Holds      []Option
	Reason     string
	Wrong      map[string]string

	Paused     bool
	Pausing    bool // the form that was refused is the one that pauses
	PauseFor   string
	PauseUntil string
	PauseSpans []Option
}

// SettingField is one setting of it.
type SettingField struct {
	Name, Unit, Help string
	Value            string // as typed
	Now              string // in force
	Ahead            string // what is refused, said beforehand
	Moved            string // what somebody else did to it meanwhile
	Wrong            string
	List             bool // chosen from the policies
}

// SettingMove is one setting's change.
type SettingMove struct{ Name, Before, After string }

// SettingsChange is a change of settings with how it went.
type SettingsChange struct {
	ID, URL     string
	Status      Status
	Diff        []SettingMove
	At          When
	By          string
	Bot         bool
	Reason      string
	Outcome     string
	Effect      []EffectItem
	Ends, Until string // of the time for which it is watched; "" when that is over
	Undo        bool   // it can be rolled back
}
