# ruff: noqa: E501, SIM905 (word lists are written as text)
"""Word pools that values are drawn from. Everything here is plain vocabulary; see `values` for how it is combined."""

FIRST_NAMES = """Mara Jonas Aisha Wei Priya Omar Elena Lukas Sofia Hiroshi Fatima Diego Ingrid Kwame Nadia Pavel Yuki Carlos Amara
Lars Zoe Ahmed Chloe Mateo Anika Tomas Leila Igor Grace Samuel Noor Viktor Rosa Ethan Mei Ravi Helena Oscar Bianca Yusuf Clara
Emil Thandiwe Marco Freya Hassan Julia Nikolai Adaeze Peter Sanna Rashid Lucia Bogdan Eun Felix Olga Kofi Camille Arjun Greta Luca
Maryam Dmitri Isla Tariq Beatriz Stefan Ngozi Paul Katarina Rafael Linnea Abdul Simone Jakub Hana Martin Zainab Pedro Astrid Kenji
Dalia Henrik Vera Mohammed Louise Andrei Ines Kamal Eva Gustav Sakura Matthew Petra Idris Laura Nils Shreya Antonio Mina Erik Farah
Robert Alma Chinedu Dorothea Javier Tuuli Anton Layla Benjamin Milena Jorge Signe Daniel Rania Tobias Wanjiru Philip Esther Umberto
Claire Sven Rukmini Alejandro Hanne Victor Salma Georg Nora Minh Teresa Bjorn Jasmin Leon Agnes Karim Susan Yan Monika Francis Dina
Hugo Ulrike Ramon Selma Oliver Xin Gabriela Walid Margaret Timo Parisa Louis Alice Kaito Branka Simon Deepa Rolf Emma Tunde Irina
Jack Paloma Sanjay Lotte Adrian Meera Konrad Anna James Lily Michael Sarah David Maria John Linda Tom Kate Ben Julie Max Sam Nina
Theo Ruth Ali Ida Leo Eli Ann Jo Bo Ed""".split()

LAST_NAMES = """Lindt Weber Okafor Tanaka Sharma Haddad Petrova Berg Rossi Nakamura Rahman Alvarez Hansen Mensah Kowalski Novak Sato Mendes
Diallo Larsson Papadakis Khan Dubois Romero Fischer Svoboda Nasser Ivanov Mitchell Brooks Farouk Horvath Silva Carter Lin Patel Costa
Lindqvist Moretti Demir Schmidt Johansson Dlamini Bianchi Solberg Aziz Kaya Volkov Eze Novotny Ramirez Stone Kim Keller Popov Owusu
Laurent Gupta Hoffmann Conti Hosseini Sokolov Murray Aydin Ferreira Vogel Adeyemi Walker Horvat Torres Nyberg Saleh Girard Nowak Mori
Wagner Abbas Vega Lund Fujimoto Petersen Qureshi Jensen Orlov Moreau Popescu Marin Bakshi Braun Ek Ito Reed Zeman Sesay Nilsson Iyer
Santos Abe Holm Karimi Evans Kovac Nwosu Becker Cruz Koskinen Smirnov Haidar Clarke Todorov Castro Dahl Hughes Salazar Mwangi Jacobs
Osei Ricci Aalto Menon Navarro Krause Baker Sahin Zimmer Tran Ortega Strand Malik Roth Lopez Koch Halim Bell Zhou Wolf Mansour Engel
Foster Pham Reyes Olsen Chandra Mueller Smith Brown Jones Garcia Young Wright Green Adams Hill King Scott Nguyen Cooper Ward Price Wood
Bennett Gray Cox Hart Webb Fox Dean Lane Lee Wu Xu Ng""".split()

CITIES = """Oslo;Lisbon;Paris;Berlin;Madrid;Rome;Vienna;Prague;Warsaw;Budapest;Athens;Dublin;London;Edinburgh;Glasgow;Manchester;Bristol;
Leeds;Cardiff;Belfast;Amsterdam;Rotterdam;Utrecht;Brussels;Antwerp;Ghent;Luxembourg;Zurich;Geneva;Basel;Bern;Munich;Hamburg;Cologne;
Frankfurt;Stuttgart;Leipzig;Dresden;Bremen;Hanover;Nuremberg;Copenhagen;Aarhus;Stockholm;Gothenburg;Malmo;Uppsala;Bergen;Trondheim;
Tromso;Helsinki;Tampere;Turku;Tallinn;Riga;Vilnius;Kyiv;Lviv;Odesa;Minsk;Bucharest;Cluj;Sofia;Plovdiv;Belgrade;Zagreb;Split;Ljubljana;
Sarajevo;Skopje;Tirana;Istanbul;Ankara;Izmir;Tel Aviv;Jerusalem;Haifa;Beirut;Amman;Damascus;Baghdad;Tehran;Dubai;Abu Dhabi;Doha;
Muscat;Riyadh;Jeddah;Kuwait City;Cairo;Alexandria;Tunis;Algiers;Rabat;Casablanca;Marrakesh;Dakar;Accra;Lagos;Abuja;Nairobi;Mombasa;
Kampala;Kigali;Addis Ababa;Dar es Salaam;Lusaka;Harare;Windhoek;Cape Town;Johannesburg;Durban;Pretoria;Maputo;Luanda;Mumbai;Delhi;
New Delhi;Bangalore;Chennai;Kolkata;Hyderabad;Pune;Jaipur;Karachi;Lahore;Islamabad;Dhaka;Colombo;Kathmandu;Thimphu;Yangon;Bangkok;
Chiang Mai;Hanoi;Ho Chi Minh City;Phnom Penh;Vientiane;Kuala Lumpur;Penang;Singapore;Jakarta;Bandung;Surabaya;Manila;Cebu;Taipei;
Hong Kong;Macau;Shanghai;Beijing;Shenzhen;Guangzhou;Chengdu;Wuhan;Xi'an;Seoul;Busan;Incheon;Tokyo;Osaka;Kyoto;Nagoya;Sapporo;Fukuoka;
Hiroshima;Sydney;Melbourne;Brisbane;Perth;Adelaide;Canberra;Hobart;Darwin;Auckland;Wellington;Christchurch;Dunedin;Suva;Honolulu;
New York;Boston;Chicago;Los Angeles;San Francisco;San Diego;Seattle;Portland;Denver;Austin;Dallas;Houston;San Antonio;Phoenix;
Las Vegas;Salt Lake City;Minneapolis;Detroit;Cleveland;Pittsburgh;Philadelphia;Baltimore;Washington;Atlanta;Miami;Orlando;Tampa;
New Orleans;Nashville;Memphis;St. Louis;Kansas City;Toronto;Montreal;Ottawa;Quebec City;Vancouver;Calgary;Edmonton;Winnipeg;Halifax;
Mexico City;Guadalajara;Monterrey;Havana;Kingston;San Juan;Santo Domingo;Panama City;San Jose;Bogota;Medellin;Cartagena;Quito;Lima;
Cusco;La Paz;Santiago;Valparaiso;Buenos Aires;Cordoba;Rosario;Montevideo;Asuncion;Sao Paulo;Rio de Janeiro;Brasilia;Salvador;Recife;
Reykjavik;Akureyri;Valletta;Nicosia;Porto;Braga;Faro;Coimbra;Barcelona;Valencia;Seville;Granada;Malaga;Bilbao;Zaragoza;Toledo;Lyon;
Marseille;Nice;Toulouse;Bordeaux;Lille;Nantes;Strasbourg;Milan;Turin;Genoa;Venice;Bologna;Florence;Naples;Bari;Palermo;Catania;
Salzburg;Graz;Innsbruck;Linz;Brno;Krakow;Gdansk;Wroclaw;Poznan;Bratislava;Kosice;Debrecen;Thessaloniki;Galway;Cork;Limerick;Malmö;
Tromsø;Århus;Zürich;Köln;Düsseldorf;Münster;Göttingen;Łódź;Kraków;Wrocław;Gdańsk;Bogotá;São Paulo;Córdoba;Málaga;Reykjavík;Ålesund;
Bodø;Jönköping;Örebro;Besançon;Orléans;Nîmes;Cancún;Mérida;Asunción;Brașov;Timișoara;Šiauliai;Plzeň;Győr;Pécs;Hafnarfjörður;Tbilisi;
Yerevan;Baku;Almaty;Astana;Tashkent;Samarkand;Bishkek;Dushanbe;Ulaanbaatar;Vladivostok;Novosibirsk;Moscow;Saint Petersburg;Kazan;
Anchorage;Fairbanks;Juneau;Boise;Spokane;Tucson;Albuquerque;El Paso;Omaha;Tulsa;Milwaukee;Madison;Columbus;Cincinnati;Buffalo;Albany;
Burlington;Providence;Hartford;Charlotte;Raleigh;Charleston;Savannah;Jacksonville;Bath;York;Oxford;Cambridge;Brighton;Nottingham;
Sheffield;Liverpool;Newcastle;Aberdeen;Inverness;Dundee;Swansea;Plymouth;Exeter;Norwich""".replace("\n", "").split(";")

ADJECTIVES = """red blue green black white yellow silver wooden leather small large folding portable wireless ceramic cotton woollen steel
glass bamboo electric manual vintage compact heavy light waterproof insulated foldable adjustable rechargeable organic plain striped
round square tall narrow spare travel office kitchen garden desk camping reading standing noise-cancelling stainless linen canvas""".split()

ITEMS = """lamp;chair;table;keyboard;mouse;monitor;notebook;backpack;kettle;teapot;coffee grinder;bookshelf;rug;blanket;pillow;mirror;
clock;umbrella;raincoat;pair of boots;scarf;hat;pair of gloves;bicycle helmet;bike light;tent;sleeping bag;stove;pan;knife set;
cutting board;water bottle;thermos;mug;set of bowls;plant pot;watering can;hose;shovel;ladder;drill;screwdriver set;toolbox;paint set;
easel;sketchbook;fountain pen;pencil case;stapler;whiteboard;projector;speaker;pair of headphones;microphone;camera;tripod;lens;
phone case;charger;power bank;usb hub;router;printer;scanner;shredder;desk fan;heater;humidifier;vacuum cleaner;iron;toaster;blender;
rice cooker;mixer;oven dish;baking tray;candle;vase;picture frame;poster;globe;atlas;board game;puzzle;chess set;guitar;ukulele;
violin strings;yoga mat;dumbbell;jump rope;football;tennis racket;suitcase;travel adapter;wallet;watch;bracelet;ring;pair of socks;
jacket;sweater;shirt;dress;curtain;duvet;mattress;sofa;stool;bench;desk;shelf;cabinet;coat rack;doormat;lantern;torch""".replace(
    "\n", ""
).split(";")

NOTE_THINGS = """printer on floor 2;meeting room projector;guest wifi password;side entrance;parking garage;coffee machine;spare key;
front door lock;elevator;fire extinguisher;first aid box;delivery van;reception phone;heating in room 12;window in the lobby;
water cooler;alarm code;cleaning crew;visitor badges;conference phone;mail room;storage closet;shuttle bus;kitchen sink;east stairwell;
air conditioning;welcome brochures;lost umbrella;blue suitcase;package for the third floor;invoice from the caterer;broken chair;
spare projector bulb;plants in the hallway;ticket machine;server room;back gate;bike rack;roof terrace;guest list;dishwasher;
new intern;night porter;window cleaner;safe in the back office;fax machine;lights in the corridor;courier;bakery;florist;
fish tank;badge reader;laundry;piano in the lounge;sauna;breakfast buffet;room 304;room 17;suite 9""".replace(
    "\n", ""
).split(";")

NOTE_STATES = """is jammed;is out of order;needs a new battery;was moved to the basement;will be replaced on Monday;is open until six;
is closed for repairs;has a new code;leaks again;was repaired this morning;must be returned by Friday;has been picked up;is missing;
should be checked every week;needs cleaning;runs out of paper quickly;is reserved for the board;does not work after ten;is very loud;
belongs to the accounting team;has been paid;is waiting at the desk;arrives on Tuesday;is too warm;smells of smoke;has to be watered;
is on the second shelf;has two spare keys;was broken last night;is being painted;needs a signature;makes a strange noise;
can be borrowed for a day;is full;has changed;was left behind by a guest;costs extra;is locked at night""".replace(
    "\n", ""
).split(";")

VERBS = """call;email;remind;visit;pay;thank;meet;invite;text;write to;ask;pick up;wake;interview;brief""".split(";")
CHORES = """buy milk;water the plants;renew the insurance;order more paper;print the badges;back up the laptop;book the train;
send the invoices;clean the fridge;charge the scanner;return the library books;update the price list;feed the cat;lock the back door;
refill the stapler;change the light bulb;collect the parcels;order new toner;check the smoke detector;pack the samples;
file the tax return;sort the mail;bring the umbrella back;test the microphone;sign the lease;order flowers;defrost the freezer;
replace the filter;sweep the terrace;get the car washed;iron the tablecloths;count the chairs;empty the suggestion box""".replace(
    "\n", ""
).split(";")

EVENT_KINDS = """dentist appointment;team meeting;lunch;dinner;coffee;phone call;budget review;job interview;yoga class;haircut;
doctor's appointment;project kickoff;birthday party;board meeting;parent evening;piano lesson;stand-up;training session;site visit;
car inspection;staff drinks;book club;concert;flight;train to the airport;delivery;fire drill;workshop;demo;retrospective;webinar;
planning session;wine tasting;guided tour;press briefing;check-in call;vet appointment;football match;swimming lesson;house viewing;
photo shoot;plumber visit;exam;rehearsal;product launch;sprint review;one-on-one;brunch;breakfast;conference call;barbecue;eye test;
physio;language class;tax consultation;wedding;farewell party;inventory;software update;cleaning;audit;quiz night""".replace(
    "\n", ""
).split(";")

CONDITIONS = """sunny;clear;partly cloudy;cloudy;overcast;light rain;rain;heavy rain;drizzle;showers;thunderstorm;thunderstorms;snow;
light snow;heavy snow;sleet;fog;mist;windy;haze;hail;freezing rain;mostly sunny;clear sky;scattered showers;storm""".replace(
    "\n", ""
).split(";")
WET = ("rain", "drizzle", "shower", "storm", "sleet", "hail")
SNOWY = ("snow", "sleet")

TEAMS = """accounting;the sales team;marketing;the landlord;the caterer;human resources;the plumber;the electrician;legal;the bank;
the printer shop;the travel agency;reception;the night shift;the architect;the supplier;the insurance company;the school""".replace(
    "\n", ""
).split(";")

TOPICS = """wifi;parking;keys;printer;invoice;passport;breakfast;alarm;password;delivery;holiday;budget;password reset;projector;heating;
elevator;umbrella;taxi;laundry;fire drill;insurance;coffee machine;badge;contract;visitor;garden;roof;piano;suitcase;payment;catering;
plumber;battery;late checkout;room 304;lost property;backup;opening hours;cleaning;discount;tickets;recipes;birthday;vaccination;
allergies;gym;lease;toner;flowers;courier""".replace("\n", "").split(";")

SYLLABLES = """ba be bi bo bu ca ce co da de di do du fa fe fi fo ga ge gi go ha he hi ho ja je jo ka ke ki ko ku la le li lo lu ma me mi mo
mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi ya yo za ze zi zo bran dor fel gar hol
jin kor lan mar nor pel quin ros sten tar ul ver win xan yor zel th sh ch gr tr st""".split()

UNICODE_TEXTS = """你好世界;东京天气;北京烤鸭;生日快乐;こんにちは;東京タワー;ありがとうございます;お誕生日おめでとう;春节快乐;上海;大阪城;
안녕하세요;서울;감사합니다;Привет, мир;Москва;Γειά σου;Αθήνα;مرحبا;नमस्ते;สวัสดี;Señor Muñoz;Crème brûlée;Façade;Smörgåsbord;Ærøskøbing;
naïve café;Übergröße;İstanbul;Dvořák;Żółw;¿Qué tal?;漢字テスト;日本語;中文字符;我的笔记;明日の会議;京都;深圳;数据分析;音楽会;学校;电影票;
火曜日;星期五;北海道;蜂蜜;紅茶;机器学习;レストラン;図書館;新幹線;長城;茶;花见;Zażółć;Ångström;Fußgänger""".replace(
    "\n", ""
).split(";")
