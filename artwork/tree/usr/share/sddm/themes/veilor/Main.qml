// The login screen for bases that have SDDM. Every control is reached by Tab, has a name for a screen reader, and nothing moves.
import QtQuick
import QtQuick.Controls.Basic
import QtQuick.Layouts

FocusScope {
    id: root

    readonly property string family: "Inter"
    property string verdict: ""

    width: 1280
    height: 800
    LayoutMirroring.enabled: Qt.application.layoutDirection === Qt.RightToLeft
    LayoutMirroring.childrenInherit: true

    function logIn() {
        if (name.text === "" || password.text === "")
            return
        root.verdict = "Checking …"
        sddm.login(name.text, password.text, session.currentIndex)
    }

    Connections {
        target: sddm
        function onLoginFailed() {
            root.verdict = "That name and password do not match. Please try again."
            password.clear()
            password.forceActiveFocus()
        }
        function onInformationMessage(message) { root.verdict = message }
    }

    component Field: TextField {
        font { family: root.family; pixelSize: 17 }
        color: "@text@"
        placeholderTextColor: "@muted@"
        selectionColor: "@selection@"
        selectedTextColor: "@on-selection@"
        leftPadding: 14
        Layout.fillWidth: true
        implicitHeight: 46
        background: Rectangle {
            color: "@view@"
            radius: 8
            border { width: parent.activeFocus ? 3 : 2; color: parent.activeFocus ? "@accent@" : "@border@" }
        }
    }

    component Plain: Button {
        id: plain
        property color ground: "@raised@"
        property color ink: "@text@"
        font { family: root.family; pixelSize: 15 }
        implicitHeight: 44
        leftPadding: 16
        rightPadding: 16
        Accessible.name: text
        Keys.onReturnPressed: clicked()
        Keys.onEnterPressed: clicked()
        contentItem: Text {
            text: plain.text
            font: plain.font
            color: plain.ink
            horizontalAlignment: Text.AlignHCenter
            verticalAlignment: Text.AlignVCenter
        }
        background: Rectangle {
            color: plain.hovered || plain.down ? Qt.lighter(plain.ground, 1.15) : plain.ground
            radius: 8
            border { width: plain.activeFocus ? 3 : 0; color: plain.ink }
        }
    }

    Image {
        anchors.fill: parent
        source: config.background ? "file://" + config.background : ""
        fillMode: Image.PreserveAspectCrop
        Rectangle { anchors.fill: parent; color: "@window@"; z: -1 }
    }

    // The names lie on a plate of one tone, so that the contrast is the palette's whatever picture is behind.
    Rectangle {
        anchors.centerIn: form
        width: form.width + 72
        height: form.height + 64
        radius: 16
        color: "@window@"
        border { width: 1; color: "@line@" }
    }

    ColumnLayout {
        id: form
        anchors.centerIn: parent
        anchors.verticalCenterOffset: -20
        width: Math.min(400, root.width - 120)
        spacing: 14

        Image {
            source: "symbol.svg"
            sourceSize: Qt.size(84, 84)
            visible: root.height >= 700
            Layout.alignment: Qt.AlignHCenter
        }
        Image {
            source: "wordmark.svg"
            sourceSize: Qt.size(186, 42)
            Layout.alignment: Qt.AlignHCenter
            Layout.bottomMargin: 14
        }

        Field {
            id: name
            // A laptop's only person is not asked for a name at the first login either. Qt.UserRole + 1 is SDDM's role of the name.
            text: userModel.lastUser || (userModel.count === 1 ? userModel.data(userModel.index(0, 0), Qt.UserRole + 1) : "")
            placeholderText: "User name"
            Accessible.name: "User name"
            KeyNavigation.tab: password
            onAccepted: password.forceActiveFocus()
        }
        Field {
            id: password
            echoMode: TextInput.Password
            placeholderText: "Password"
            Accessible.name: "Password"
            KeyNavigation.tab: enter
            onAccepted: root.logIn()
            onTextEdited: root.verdict = ""
        }

        Text {
            visible: keyboard.capsLock
            text: "Caps Lock is on"
            color: "@neutral@"
            font { family: root.family; pixelSize: 15 }
            Layout.alignment: Qt.AlignHCenter
            Accessible.role: Accessible.AlertMessage
            Accessible.name: text
        }
        Text {
            visible: root.verdict !== ""
            text: root.verdict
            color: root.verdict.startsWith("Checking") ? "@muted@" : "@negative@"
            font { family: root.family; pixelSize: 15 }
            wrapMode: Text.WordWrap
            horizontalAlignment: Text.AlignHCenter
            Layout.fillWidth: true
            Accessible.role: Accessible.AlertMessage
            Accessible.name: text
        }

        Plain {
            id: enter
            text: "Log in"
            ground: "@accent@"
            ink: "@on-accent@"
            font.weight: Font.DemiBold
            Layout.fillWidth: true
            KeyNavigation.tab: layouts
            onClicked: root.logIn()
        }
    }

    Text {
        anchors { top: parent.top; left: parent.left; margins: 28 }
        text: Qt.formatDateTime(clock.now, Qt.locale().dateFormat(Locale.LongFormat)) + (root.width < 1000 ? "  " : "\n") + clock.now.toLocaleTimeString(Qt.locale(), Qt.locale().timeFormat(Locale.ShortFormat).replace(/:ss/, ""))
        color: "@text@"
        font { family: root.family; pixelSize: 17 }
        lineHeight: 1.3

        Timer {
            id: clock
            property date now: new Date()
            interval: 5000
            running: true
            repeat: true
            onTriggered: now = new Date()
        }
    }

    RowLayout {
        anchors { bottom: parent.bottom; left: parent.left; right: parent.right; margins: 24 }
        spacing: 10

        Plain {
            id: layouts
            visible: keyboard.layouts.length > 0
            text: visible ? "Keyboard: " + keyboard.layouts[keyboard.currentLayout].longName : ""
            KeyNavigation.tab: session
            onClicked: keyboard.currentLayout = (keyboard.currentLayout + 1) % keyboard.layouts.length
        }
        ComboBox {
            id: session
            model: sessionModel
            textRole: "name"
            currentIndex: sessionModel.lastIndex
            visible: count > 1
            implicitHeight: 44
            implicitWidth: 210
            font { family: root.family; pixelSize: 15 }
            Accessible.name: "Session: " + currentText
            KeyNavigation.tab: suspend
            delegate: ItemDelegate {
                required property int index
                required property string name
                width: session.width
                text: name
                font: session.font
                highlighted: session.highlightedIndex === index
                contentItem: Text { text: parent.text; font: parent.font; color: parent.highlighted ? "@on-selection@" : "@text@" }
                background: Rectangle { color: parent.highlighted ? "@selection@" : "@raised@" }
            }
            contentItem: Text {
                leftPadding: 14
                text: session.displayText
                font: session.font
                color: "@text@"
                elide: Text.ElideRight
                verticalAlignment: Text.AlignVCenter
            }
            background: Rectangle {
                color: "@raised@"
                radius: 8
                border { width: session.activeFocus ? 3 : 0; color: "@text@" }
            }
        }

        Item { Layout.fillWidth: true }

        Plain {
            id: suspend
            visible: sddm.canSuspend
            text: "Sleep"
            KeyNavigation.tab: restart
            onClicked: sddm.suspend()
        }
        Plain {
            id: restart
            visible: sddm.canReboot
            text: "Restart"
            KeyNavigation.tab: off
            onClicked: sddm.reboot()
        }
        Plain {
            id: off
            visible: sddm.canPowerOff
            text: "Shut down"
            KeyNavigation.tab: name
            onClicked: sddm.powerOff()
        }
    }

    Component.onCompleted: (name.text === "" ? name : password).forceActiveFocus()
}
